//! A chat in a window: it opens before there is a network, and nothing the network does freezes it.
//!
//! ```sh
//! cd examples/desktop && cargo run                        # against an emulator in the program
//! WEBPUBSUB_URL='wss://…' cargo run                       # against the real service
//! ```
//!
//! Without `WEBPUBSUB_URL` a second client answers what you say. With it, start the program twice;
//! the token needs the roles to join the group `room` and to send to it. Ctrl+Q closes the window
//! too. With `--print` what is drawn anew is also printed.
//!
//! What it takes to use the client is in `chat.rs`.

mod chat;

use std::time::Duration;
use std::{process, thread};

use eframe::egui;
use webpubsub::emulator::Emulator;
use webpubsub::{Client, ClientState, Publish};

use crate::chat::{Chat, ROOM};

fn main() -> eframe::Result {
    let print = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--print") => true,
        Some(_) => {
            eprintln!("usage: webpubsub-desktop [--print]; the URL comes from WEBPUBSUB_URL");
            process::exit(2);
        }
    };
    // The emulator, if there is one, lives until the end of `main`.
    let (url, _emulator) = match std::env::var("WEBPUBSUB_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let emulator = Emulator::start().expect("a free port on this machine");
            let url = emulator.url("desktop");
            let for_other = url.clone();
            thread::spawn(move || answer(for_other));
            (url, Some(emulator))
        }
    };
    let options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default().with_inner_size([480.0, 320.0]),
        ..Default::default()
    };
    eframe::run_native(
        "Chat",
        options,
        Box::new(move |cc| {
            // A blinking cursor would draw all anew each half second, and hide a missing wake-up.
            cc.egui_ctx.style_mut(|style| style.visuals.text_cursor.blink = false);
            let window = cc.egui_ctx.clone();
            let chat = Chat::new(url, move || window.request_repaint())?;
            Ok(Box::new(Window { chat, input: String::new(), printer: Printer::new(print) }))
        }),
    )
}

/// The other side, where there is nobody else.
fn answer(url: String) -> webpubsub::Result<()> {
    let client = Client::connect(url)?;
    for message in client.subscribe(ROOM)?.messages() {
        let answer = format!("you said: {}", message?.payload);
        client.call(Publish::new(ROOM, answer).no_echo())?;
    }
    Ok(())
}

struct Window {
    chat: Chat,
    input: String,
    printer: Printer,
}

impl eframe::App for Window {
    fn update(&mut self, ctx: &egui::Context, _: &mut eframe::Frame) {
        let quit = egui::KeyboardShortcut::new(egui::Modifiers::COMMAND, egui::Key::Q);
        if ctx.input_mut(|i| i.consume_shortcut(&quit)) {
            ctx.send_viewport_cmd(egui::ViewportCommand::Close);
        }
        egui::TopBottomPanel::bottom("input").show(ctx, |ui| self.input(ui));
        self.chat.look();
        egui::TopBottomPanel::top("state").show(ctx, |ui| self.state(ui));
        egui::CentralPanel::default().show(ctx, |ui| {
            let area = egui::ScrollArea::vertical().stick_to_bottom(true).auto_shrink(false);
            area.show(ui, |ui| self.lines(ui));
        });
    }

    /// What was typed last still goes out, if the network takes it.
    fn on_exit(&mut self, _: Option<&eframe::glow::Context>) {
        if let Err(e) = self.chat.client.close() {
            eprintln!("{e:#}");
        }
    }
}

impl Window {
    fn input(&mut self, ui: &mut egui::Ui) {
        let field = egui::TextEdit::singleline(&mut self.input).hint_text("say something");
        let field = ui.add(field.desired_width(f32::INFINITY));
        if field.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter)) {
            let text = std::mem::take(&mut self.input);
            if !text.trim().is_empty() {
                self.chat.say(text);
            }
        }
        field.request_focus();
    }

    fn state(&mut self, ui: &mut egui::Ui) {
        let state = self.chat.client.state();
        let text = match self.chat.sent.len() {
            0 => state.to_string(),
            calls => format!("{state}; {calls} on the way"),
        };
        ui.label(&text);
        self.printer.state(text);
        // Its text counts the seconds down, which wakes nobody.
        if matches!(state, ClientState::Waiting { .. }) {
            ui.ctx().request_repaint_after(Duration::from_secs(1));
        }
    }

    fn lines(&mut self, ui: &mut egui::Ui) {
        for (i, line) in self.chat.lines.iter().enumerate() {
            let drawn = ui.label(line).rect;
            if ui.is_rect_visible(drawn) {
                self.printer.line(i, line);
            }
        }
    }
}

/// Prints what is drawn for the first time.
struct Printer {
    on: bool,
    state: String,
    lines: usize,
}

impl Printer {
    fn new(on: bool) -> Self {
        Self { on, state: String::new(), lines: 0 }
    }

    fn state(&mut self, text: String) {
        if self.on && self.state != text {
            println!("state: {text}");
            self.state = text;
        }
    }

    fn line(&mut self, index: usize, text: &str) {
        if self.on && index >= self.lines {
            println!("line: {text}");
            self.lines = index + 1;
        }
    }
}

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * The WebSocket of the JDK against the emulator: what programs do that use no SDK. Run as a single
 * file: {@code java Plain.java}.
 *
 * <p>../js/plain.mjs and ../python/plain.py make the same checks under the same names.
 */
public class Plain {
    static final int WATCHDOG_S = 120;
    static final int STEP_S = 10;

    static final String GROUP = "room";
    static final String SUBPROTOCOL = "json.webpubsub.azure.v1";
    static final String TEXT = "Grüße, <b>&</b> 'quotes' \"and\" 👋\n";
    static final Object VALUE = object(
            "list", Arrays.asList(1.0, 2.5, -3e10, true, null), "nested", object("text", "日本 👋"));
    static final byte[] BYTES = {0, 1, 127, (byte) 128, (byte) 255};
    static final List<String> ALL_ROLES = List.of("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup");

    /** The emulator that answers each event with what it holds, and the one without a handler. */
    static final Service MAIN = new Service(environment("WPS_CONNECTION_STRING"));
    static final Service WITHOUT_HANDLER = new Service(environment("WPS_CONNECTION_STRING_NO_HANDLER"));

    static volatile String running = "the start";

    public static void main(String[] arguments) {
        var watchdog = new Thread(() -> {
            try {
                Thread.sleep(WATCHDOG_S * 1000L);
            } catch (InterruptedException e) {
                return;
            }
            die("still at \"" + running + "\" after " + WATCHDOG_S + " s");
        });
        watchdog.setDaemon(true);
        watchdog.start();

        simpleClient();
        pubSubClient();
        // Threads of the HTTP client would keep the program alive for a while.
        System.exit(0);
    }

    static void simpleClient() {
        check("simple client: a text event is answered", () -> {
            try (var peer = new Peer(new Access().roles(), null)) {
                equal(peer.socket.getSubprotocol(), "");
                peer.send(TEXT);
                equal(peer.frame(), TEXT);
            }
        });
        check("simple client: a binary event is answered", () -> {
            try (var peer = new Peer(new Access().roles(), null)) {
                peer.send(BYTES);
                equal(peer.frame(), ByteBuffer.wrap(BYTES));
            }
        });
        check("simple client: an event without a handler closes with 1011", () -> {
            try (var peer = new Peer(new Access().service(WITHOUT_HANDLER), null)) {
                peer.send("x");
                equal(peer.frame(), 1011);
            }
        });
        check("simple client: sendToGroup mode publishes to the group of its URL", () -> {
            try (var receiver = new Peer(new Access().groups(GROUP), null);
                    var sender = new Peer(new Access().groups(GROUP).groupMode(""), null)) {
                sender.send(TEXT);
                sender.send(BYTES);
                for (var peer : List.of(receiver, sender)) {
                    equal(peer.frame(), TEXT);
                    equal(peer.frame(), ByteBuffer.wrap(BYTES));
                }
            }
        });
        check("simple client: noEcho keeps a message from its sender only", () -> {
            try (var receiver = new Peer(new Access().groups(GROUP), null);
                    var silent = new Peer(new Access().groups(GROUP).groupMode("&noEcho=true"), null);
                    var loud = new Peer(new Access().groupMode(""), null)) {
                silent.send("silent");
                equal(receiver.frame(), "silent");
                loud.send("loud");
                for (var peer : List.of(receiver, silent)) {
                    equal(peer.frame(), "loud");
                }
            }
        });
        check("simple client: a message that its roles forbid closes with 1008", () -> {
            var access = new Access().roles("webpubsub.sendToGroup.other").groupMode("");
            try (var peer = new Peer(access, null)) {
                peer.send("x");
                equal(peer.frame(), 1008);
            }
        });
        check("simple client: a token of another key is refused with 401", () -> {
            try {
                new Peer(new Access().key("another"), null).close();
            } catch (CompletionException e) {
                if (e.getCause() instanceof WebSocketHandshakeException refusal) {
                    equal(refusal.getResponse().statusCode(), 401);
                    return;
                }
                throw e;
            }
            throw new AssertionError("not refused");
        });
    }

    static void pubSubClient() {
        check("json: connects, with its user id", () -> {
            try (var peer = pubSub(new Access().user("us"))) {
                truth(!((String) peer.connected.get("connectionId")).isEmpty(), "no connection id");
                equal(peer.connected.get("userId"), "us");
            }
        });
        var payloads = new LinkedHashMap<String, Object>();
        payloads.put("text", TEXT);
        payloads.put("json", VALUE);
        payloads.put("binary", Base64.getEncoder().encodeToString(BYTES));
        payloads.forEach((dataType, data) -> check("json: " + dataType + " arrives as it was sent", () -> {
            try (var pair = new Pair()) {
                pair.publisher.succeed(publish(1, GROUP, dataType, data));
                var message = pair.subscriber.json();
                equal(
                        pick(message, "type", "from", "group", "fromUserId"),
                        List.of("message", "group", GROUP, "publisher"));
                equal(pick(message, "dataType", "data"), List.of(dataType, data));
            }
        }));
        check("json: noEcho keeps a message from its sender only", () -> {
            try (var pair = new Pair()) {
                pair.publisher.succeed(join(1, GROUP));
                var silent = publish(2, GROUP, "text", "silent");
                silent.put("noEcho", true);
                pair.publisher.succeed(silent);
                var loud = publish(3, GROUP, "text", "loud");
                loud.remove("ackId");
                pair.publisher.send(Json.write(loud));
                equal(pair.publisher.json().get("data"), "loud");
                equal(pair.subscriber.json().get("data"), "silent");
                equal(pair.subscriber.json().get("data"), "loud");
            }
        });
        check("json: nothing arrives after leaving", () -> {
            try (var pair = new Pair()) {
                pair.subscriber.succeed(join(2, "other"));
                pair.subscriber.succeed(leave(3, GROUP));
                pair.publisher.succeed(publish(1, GROUP, "text", "unheard"));
                pair.publisher.succeed(publish(2, "other", "text", "heard"));
                equal(pair.subscriber.json().get("data"), "heard");
            }
        });
        check("json: 2000 messages arrive in order", () -> {
            try (var pair = new Pair()) {
                // The service queues 1000 frames for a connection.
                for (int start = 0; start < 2000; start += 200) {
                    for (int n = start; n < start + 200; n++) {
                        pair.publisher.send(Json.write(publish(n + 1, GROUP, "json", n)));
                    }
                    for (int n = start; n < start + 200; n++) {
                        var ack = pair.publisher.json();
                        equal(pick(ack, "ackId", "success"), List.of(n + 1.0, true));
                        equal(pair.subscriber.json().get("data"), (double) n);
                    }
                }
            }
        });
        check("json: a repeated ack id is a duplicate and runs once", () -> {
            try (var pair = new Pair()) {
                pair.publisher.succeed(publish(77, GROUP, "text", "once"));
                pair.publisher.fail(publish(77, GROUP, "text", "again"), "Duplicate");
                pair.publisher.succeed(publish(78, GROUP, "text", "end"));
                equal(pair.subscriber.json().get("data"), "once");
                equal(pair.subscriber.json().get("data"), "end");
            }
        });
        check("json: without roles joining, leaving and publishing are forbidden", () -> {
            try (var peer = pubSub(new Access().roles())) {
                peer.fail(join(1, GROUP), "Forbidden");
                peer.fail(leave(2, GROUP), "Forbidden");
                peer.fail(publish(3, GROUP, "text", "x"), "Forbidden");
            }
        });
        check("json: a role for one group holds for that group", () -> {
            var roles = ALL_ROLES.stream().map(role -> role + "." + GROUP).toArray(String[]::new);
            try (var peer = pubSub(new Access().roles(roles))) {
                peer.succeed(join(1, GROUP));
                peer.fail(join(2, "other"), "Forbidden");
                peer.fail(publish(3, "other", "text", "x"), "Forbidden");
            }
        });
        check("json: an event is answered before its ack", () -> {
            try (var peer = pubSub(new Access().roles())) {
                var ackId = 0;
                for (var payload : payloads.entrySet()) {
                    ackId++;
                    peer.send(Json.write(event(ackId, payload.getKey(), payload.getValue())));
                    var message = peer.json();
                    equal(pick(message, "type", "from"), List.of("message", "server"));
                    equal(pick(message, "dataType", "data"), List.of(payload.getKey(), payload.getValue()));
                    equal(pick(peer.json(), "type", "ackId", "success"), List.of("ack", (double) ackId, true));
                }
            }
        });
        check("json: an event without a handler fails, and the connection stays", () -> {
            try (var peer = pubSub(new Access().service(WITHOUT_HANDLER))) {
                peer.fail(event(1, "text", "x"), "InternalServerError");
                peer.succeed(join(2, GROUP));
            }
        });
        check("json: a ping is answered", () -> {
            try (var peer = pubSub(new Access())) {
                peer.send(Json.write(object("type", "ping")));
                equal(peer.json().get("type"), "pong");
            }
        });
        check("json: a frame that is not JSON closes with 1007", () -> {
            try (var peer = pubSub(new Access())) {
                peer.send("{");
                equal(peer.frame(), 1007);
            }
        });
        check("json: a Close of the service arrives with its code", () -> {
            try (var peer = pubSub(new Access())) {
                Files.writeString(
                        Path.of(environment("WPS_CONTROL")), "close 1012\n", StandardOpenOption.WRITE);
                equal(peer.frame(), 1012);
            }
        });
    }

    static Map<String, Object> join(int ackId, String group) {
        return object("type", "joinGroup", "group", group, "ackId", ackId);
    }

    static Map<String, Object> leave(int ackId, String group) {
        return object("type", "leaveGroup", "group", group, "ackId", ackId);
    }

    static Map<String, Object> publish(int ackId, String group, String dataType, Object data) {
        return object("type", "sendToGroup", "group", group, "ackId", ackId, "dataType", dataType, "data", data);
    }

    static Map<String, Object> event(int ackId, String dataType, Object data) {
        return object("type", "event", "event", "echo", "ackId", ackId, "dataType", dataType, "data", data);
    }

    static Peer pubSub(Access access) throws Exception {
        var peer = new Peer(access, SUBPROTOCOL);
        equal(peer.socket.getSubprotocol(), SUBPROTOCOL);
        peer.connected = peer.json();
        equal(pick(peer.connected, "type", "event"), List.of("system", "connected"));
        return peer;
    }

    /** A member of the group, and a publisher that is none. */
    static class Pair implements AutoCloseable {
        final Peer subscriber = pubSub(new Access().user("subscriber"));
        final Peer publisher = pubSub(new Access().user("publisher"));

        Pair() throws Exception {
            subscriber.succeed(join(1, GROUP));
        }

        @Override
        public void close() {
            subscriber.close();
            publisher.close();
        }
    }

    static class Peer implements WebSocket.Listener, AutoCloseable {
        final WebSocket socket;
        Map<String, Object> connected;
        /** Texts, ByteBuffers, and the code of a Close as a number. */
        private final BlockingQueue<Object> frames = new LinkedBlockingQueue<>();
        private final StringBuilder text = new StringBuilder();
        private ByteBuffer binary = ByteBuffer.allocate(0);

        Peer(Access access, String subprotocol) {
            var builder = HttpClient.newHttpClient().newWebSocketBuilder();
            if (subprotocol != null) {
                builder.subprotocols(subprotocol);
            }
            socket = builder.buildAsync(URI.create(access.url()), this)
                    .orTimeout(STEP_S, TimeUnit.SECONDS)
                    .join();
        }

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
            text.append(part);
            if (last) {
                frames.add(text.toString());
                text.setLength(0);
            }
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer part, boolean last) {
            binary = ByteBuffer.allocate(binary.remaining() + part.remaining()).put(binary).put(part).flip();
            if (last) {
                frames.add(binary);
                binary = ByteBuffer.allocate(0);
            }
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            frames.add(code);
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            frames.add(error);
        }

        Object frame() throws InterruptedException {
            var frame = frames.poll(STEP_S, TimeUnit.SECONDS);
            truth(frame != null, "no frame within " + STEP_S + " s");
            return frame;
        }

        @SuppressWarnings("unchecked")
        Map<String, Object> json() throws InterruptedException {
            var frame = frame();
            truth(frame instanceof String, "no text frame: " + frame);
            return (Map<String, Object>) new Json((String) frame).read();
        }

        void send(String text) {
            socket.sendText(text, true).orTimeout(STEP_S, TimeUnit.SECONDS).join();
        }

        void send(byte[] bytes) {
            socket.sendBinary(ByteBuffer.wrap(bytes), true).orTimeout(STEP_S, TimeUnit.SECONDS).join();
        }

        /** Sends a request and returns its ack, which must be the next frame. */
        Map<String, Object> ask(Map<String, Object> request) throws InterruptedException {
            send(Json.write(request));
            var ack = json();
            equal(pick(ack, "type", "ackId"), List.of("ack", ((Integer) request.get("ackId")).doubleValue()));
            return ack;
        }

        void succeed(Map<String, Object> request) throws InterruptedException {
            var ack = ask(request);
            truth(Boolean.TRUE.equals(ack.get("success")), "refused: " + ack);
        }

        void fail(Map<String, Object> request, String name) throws InterruptedException {
            var ack = ask(request);
            truth(ack.get("error") instanceof Map, "no error: " + ack);
            var error = (Map<?, ?>) ack.get("error");
            equal(Arrays.asList(ack.get("success"), error.get("name")), List.of(false, name));
            truth(error.get("message") instanceof String s && !s.isEmpty(), "the refusal says nothing");
        }

        @Override
        public void close() {
            if (!socket.isOutputClosed()) {
                socket.sendClose(WebSocket.NORMAL_CLOSURE, "");
            }
        }
    }

    record Service(String endpoint, String key) {
        Service(String connectionString) {
            this(part(connectionString, "Endpoint=([^;]*?)/?;"), part(connectionString, "AccessKey=([^;]*)"));
        }

        private static String part(String text, String pattern) {
            var matcher = Pattern.compile(pattern).matcher(text);
            truth(matcher.find(), "not a connection string");
            return matcher.group(1);
        }
    }

    /** What a client access URL says; signed as a server SDK does it. */
    static class Access {
        private final Map<String, Object> claims = object("role", ALL_ROLES);
        private Service service = MAIN;
        private String key;
        private String query = "";

        Access user(String user) {
            claims.put("sub", user);
            return this;
        }

        Access roles(String... roles) {
            claims.put("role", List.of(roles));
            return this;
        }

        Access groups(String... groups) {
            claims.put("webpubsub.group", List.of(groups));
            return this;
        }

        Access groupMode(String more) {
            query = "&webpubsub_mode=sendToGroup&group=" + GROUP + more;
            return this;
        }

        Access key(String key) {
            this.key = key;
            return this;
        }

        Access service(Service service) {
            this.service = service;
            return this;
        }

        String url() {
            var path = service.endpoint() + "/client/hubs/clients";
            claims.put("aud", path);
            claims.put("exp", System.currentTimeMillis() / 1000 + 3600);
            var signed = encode("{\"alg\":\"HS256\",\"typ\":\"JWT\"}".getBytes(StandardCharsets.UTF_8)) + "."
                    + encode(Json.write(claims).getBytes(StandardCharsets.UTF_8));
            var secret = (key != null ? key : service.key()).getBytes(StandardCharsets.UTF_8);
            byte[] signature;
            try {
                var mac = Mac.getInstance("HmacSHA256");
                mac.init(new SecretKeySpec(secret, "HmacSHA256"));
                signature = mac.doFinal(signed.getBytes(StandardCharsets.UTF_8));
            } catch (java.security.GeneralSecurityException e) {
                throw new IllegalStateException(e);
            }
            return path.replaceFirst("http", "ws") + "?access_token=" + signed + "." + encode(signature) + query;
        }

        private static String encode(byte[] bytes) {
            return Base64.getUrlEncoder().withoutPadding().encodeToString(bytes);
        }
    }

    /** The JDK has no JSON. Maps, Lists, Strings, Doubles, Booleans and null. */
    static class Json {
        private final String text;
        private int at;

        Json(String text) {
            this.text = text;
        }

        Object read() {
            var value = value();
            space();
            truth(at == text.length(), "more behind the JSON value: " + text);
            return value;
        }

        private Object value() {
            space();
            return switch (text.charAt(at)) {
                case '{' -> {
                    var map = new LinkedHashMap<String, Object>();
                    for (at++; !ends('}'); ends(',')) {
                        space();
                        var name = string();
                        truth(ends(':'), "no colon: " + text);
                        map.put(name, value());
                    }
                    yield map;
                }
                case '[' -> {
                    var list = new ArrayList<Object>();
                    for (at++; !ends(']'); ends(',')) {
                        list.add(value());
                    }
                    yield list;
                }
                case '"' -> string();
                default -> {
                    int start = at;
                    while (at < text.length() && ",]} \n\r\t".indexOf(text.charAt(at)) < 0) {
                        at++;
                    }
                    var word = text.substring(start, at);
                    yield switch (word) {
                        case "true" -> true;
                        case "false" -> false;
                        case "null" -> null;
                        default -> Double.valueOf(word);
                    };
                }
            };
        }

        private String string() {
            var out = new StringBuilder();
            for (at++; text.charAt(at) != '"'; at++) {
                char c = text.charAt(at);
                if (c == '\\') {
                    c = text.charAt(++at);
                    switch (c) {
                        case 'n' -> c = '\n';
                        case 'r' -> c = '\r';
                        case 't' -> c = '\t';
                        case 'b' -> c = '\b';
                        case 'f' -> c = '\f';
                        case 'u' -> {
                            c = (char) Integer.parseInt(text.substring(at + 1, at + 5), 16);
                            at += 4;
                        }
                        default -> {}
                    }
                }
                out.append(c);
            }
            at++;
            return out.toString();
        }

        /** Skips this character if it is the next one. */
        private boolean ends(char c) {
            space();
            boolean here = text.charAt(at) == c;
            at += here ? 1 : 0;
            return here;
        }

        private void space() {
            while (at < text.length() && Character.isWhitespace(text.charAt(at))) {
                at++;
            }
        }

        static String write(Object value) {
            if (value instanceof Map<?, ?> map) {
                var members = new ArrayList<String>();
                map.forEach((name, member) -> members.add(write(name) + ":" + write(member)));
                return "{" + String.join(",", members) + "}";
            }
            if (value instanceof List<?> list) {
                return "[" + String.join(",", list.stream().map(Json::write).toList()) + "]";
            }
            if (value instanceof String text) {
                return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"";
            }
            return String.valueOf(value);
        }
    }

    static Map<String, Object> object(Object... namesAndValues) {
        var map = new LinkedHashMap<String, Object>();
        for (int i = 0; i < namesAndValues.length; i += 2) {
            map.put((String) namesAndValues[i], namesAndValues[i + 1]);
        }
        return map;
    }

    static List<Object> pick(Map<String, Object> map, String... names) {
        return Arrays.stream(names).map(map::get).toList();
    }

    interface Body {
        void run() throws Exception;
    }

    /** Runs one check. The first that fails ends the program. */
    static void check(String name, Body body) {
        running = name;
        try {
            body.run();
        } catch (Throwable e) {
            die(name + ": " + e);
        }
        System.out.println("ok - " + name);
    }

    static void die(String why) {
        System.err.println("FAILED: " + why);
        System.exit(1);
    }

    static void equal(Object is, Object should) {
        truth(Objects.equals(is, should), is + " instead of " + should);
    }

    static void truth(boolean condition, String otherwise) {
        if (!condition) {
            throw new AssertionError(otherwise);
        }
    }

    static String environment(String name) {
        var value = System.getenv(name);
        if (value == null) {
            die(name + " is not set; ci/clients/run.sh sets it");
        }
        return value;
    }
}

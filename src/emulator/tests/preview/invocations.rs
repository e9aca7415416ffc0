use super::*;
use crate::emulator::EventAnswer;
use crate::message::Metadata;

fn invoke(id: &str) -> Value {
    json!({"type": "invoke", "invocationId": id, "target": "event", "event": "add",
        "dataType": "json", "data": [1, 2], "metadata": {"k": "v"}})
}

fn response(id: &str) -> Value {
    json!({"type": "invokeResponse", "invocationId": id, "success": true})
}

fn failure(id: &str, name: &str, message: &str) -> Value {
    json!({"type": "invokeResponse", "invocationId": id, "success": false,
        "error": {"name": name, "message": message}})
}

#[test]
fn the_handler_sees_the_call_and_its_answer_is_the_response() {
    let mut service = VirtualService::new(1, |_| ());
    let peer = Peer::new(&mut service, Protocol::Json);
    let event = peer.up(&mut service, T0, invoke("i")).unwrap();
    assert_eq!((&*event.event, event.invocation_id.as_deref()), ("add", Some("i")));
    assert_eq!(event.payload.as_bytes(), b"[1,2]");
    assert_eq!(event.metadata.get("k"), Some("v"));
    assert_eq!((peer.got(), service.is_handling(&peer.id)), (vec![], true));

    let metadata = Metadata::from_iter([("a", "b")]);
    let error = EventAnswer::Error { name: "BadRequest".into(), message: "oops".into() };
    let mut with_data = response("i");
    with_data["dataType"] = "text".into();
    with_data["data"] = "3".into();
    let mut with_metadata = with_data.clone();
    with_metadata["metadata"] = json!({"a": "b"});
    for (answer, expected) in [
        (EventAnswer::Message("3".into()), with_data),
        (EventAnswer::MessageWithMetadata("3".into(), metadata), with_metadata),
        (EventAnswer::Nothing, response("i")),
        (EventAnswer::Failure, failure("i", "InternalServerError", "Internal server error")),
        (error, failure("i", "BadRequest", "oops")),
    ] {
        assert!(service.answer(T0, &peer.id, answer).is_none());
        assert_eq!(peer.got(), [expected]);
        assert!(peer.up(&mut service, T0, invoke("i")).is_some(), "nothing detects repeats");
    }
    assert_eq!((service.stats().invocations, service.stats().events), (6, 0));
}

#[test]
fn without_data_the_handler_sees_an_empty_text_and_without_a_handler_the_call_fails() {
    let bare = json!({"type": "invoke", "invocationId": "i", "target": "event", "event": "e"});
    let mut service = VirtualService::new(1, |_| ());
    let peer = Peer::new(&mut service, Protocol::Json);
    let event = peer.up(&mut service, T0, bare.clone()).unwrap();
    assert_eq!(event.payload.text().ok(), Some(""));

    let mut service = VirtualService::new(1, |settings| {
        settings.has_handler = false;
        settings.failed_event_closes_connection = true;
    });
    let peer = Peer::new(&mut service, Protocol::Json);
    assert!(peer.up(&mut service, T0, bare).is_none());
    assert_eq!(peer.got(), [failure("i", "InternalServerError", "Internal server error")]);
}

#[test]
fn an_answer_is_lost_with_the_link_on_which_the_call_came() {
    let mut service = VirtualService::new(1, |_| ());
    let mut peer = Peer::new(&mut service, Protocol::ReliableJson);
    peer.up(&mut service, T0, invoke("lost"));
    service.reset(T0, &peer.on);
    peer.recover(&mut service, T0);
    peer.up(&mut service, T0, json!({"type": "ping"}));
    service.answer(T0, &peer.id, EventAnswer::Nothing);
    assert_eq!(peer.got(), [json!({"type": "pong"})]);

    peer.up(&mut service, T0, invoke("kept"));
    service.answer(T0, &peer.id, EventAnswer::Nothing);
    assert_eq!(peer.got(), [response("kept")], "without a number");
    service.reset(T0, &peer.on);
    peer.recover(&mut service, T0);
    assert_eq!(peer.got(), Vec::<Value>::new(), "and not sent again");
}

#[test]
fn a_cancel_is_counted_and_the_answer_comes_all_the_same() {
    let mut service = VirtualService::new(1, |_| ());
    let peer = Peer::new(&mut service, Protocol::Json);
    peer.up(&mut service, T0, invoke("i"));
    peer.up(&mut service, T0, json!({"type": "cancelInvocation", "invocationId": "i"}));
    service.answer(T0, &peer.id, EventAnswer::Nothing);
    peer.up(&mut service, T0, json!({"type": "cancelInvocation", "invocationId": "other"}));
    assert_eq!((peer.got(), service.stats().invocations_cancelled), (vec![response("i")], 2));
}

#[test]
fn faults_hold_answers_back_or_lose_them() {
    let mut service = VirtualService::new(1, |_| ());
    let mut peer = Peer::new(&mut service, Protocol::ReliableJson);
    let call = |service: &mut VirtualService, peer: &Peer, id: &str| {
        peer.up(service, T0, invoke(id));
        service.answer(T0, &peer.id, EventAnswer::Nothing);
    };
    service.preview().lose_responses = 1;
    call(&mut service, &peer, "lost");
    service.preview().hold_responses = true;
    call(&mut service, &peer, "late");
    peer.up(&mut service, T0, json!({"type": "ping"}));
    assert_eq!(peer.got(), [json!({"type": "pong"})]);
    service.heal();
    assert_eq!(peer.got(), [response("late")]);

    service.preview().hold_responses = true;
    call(&mut service, &peer, "gone");
    service.reset(T0, &peer.on);
    peer.recover(&mut service, T0);
    service.heal();
    assert_eq!(peer.got(), Vec::<Value>::new());
}

#[test]
fn what_a_frame_may_not_hold_ends_the_connection() {
    let protobuf = json!({"type": "invoke", "invocationId": "i", "target": "event", "event": "e",
        "dataType": "protobuf", "data": "CgFh"});
    let fragment = json!({"type": "streamData", "streamId": "s", "streamSequenceId": 1,
        "dataType": "protobuf", "data": "CgFh"});
    let state = |state: Value| json!({"type": "setGroupState", "group": "g", "state": state});
    let start = |stream: Value| json!({"type": "sendToGroup", "group": "g", "stream": stream});
    for message in [
        protobuf,
        fragment,
        state(json!({"k": 1})),
        state(json!({"k": null})),
        state(json!({"k": {}})),
        state(json!("text")),
        start(json!({"streamId": ""})),
        start(json!({"streamId": "s", "idleTimeoutMs": 0})),
        json!({"type": "streamData", "streamId": "s", "streamSequenceId": 1}),
        json!({"type": "streamData", "streamId": "s", "data": "x"}),
    ] {
        let mut service = VirtualService::new(1, |m| m.refuse_protobuf_over_json = true);
        let peer = Peer::new(&mut service, Protocol::Json);
        peer.up(&mut service, T0, message.clone());
        let closed = matches!(&peer.on.take(usize::MAX)[..], [Out::Close { code: 1007, .. }]);
        assert!(closed && !service.lives(T0, &peer.id), "{message}");
    }
}

"""The other side of tests/interop.rs: the official `protobuf` package reads and writes frames.

Standard input has one JSON object per line: `root` (`Up` or `Down`), `frame` (what Rust wrote, in
base64) and `fields` (what it must mean: messages as objects, bytes in base64, numbers as decimal
strings). Each answer is one line: `again` (the frame as parsed and written here), `built` (a
message made from `fields` alone) and `extended` (the same with a field from the future); or
`error`.

The descriptors are made from webpubsub.proto at run time, so no protoc is needed.
"""

import base64
import json
import pathlib
import re
import sys

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "webpubsub.interop"
# Field 1000, a string.
FUTURE = bytes([0xC2, 0x3E, 5]) + b"later"

Field = descriptor_pb2.FieldDescriptorProto


def camel(name):
    return "".join(part.capitalize() for part in name.split("_"))


def add_field(message, line, oneof):
    """Adds `[optional|repeated] TYPE NAME = NUMBER` to a descriptor."""
    label, kind, name, number = re.fullmatch(
        r"(?:(optional|repeated) )?(map<string, string>|[\w.]+) (\w+) = (\d+)", line
    ).groups()
    field = message.field.add(name=name, number=int(number), label=Field.LABEL_OPTIONAL)
    scalar = getattr(Field, "TYPE_" + kind.upper(), None)
    if kind.startswith("map"):
        entry = message.nested_type.add(name=camel(name) + "Entry")
        entry.options.map_entry = True
        add_field(entry, "string key = 1", None)
        add_field(entry, "string value = 2", None)
        field.type, field.label = Field.TYPE_MESSAGE, Field.LABEL_REPEATED
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
    elif scalar is not None:
        field.type = scalar
    else:
        field.type = Field.TYPE_MESSAGE
        field.type_name = "." + (kind if "." in kind else f"{PACKAGE}.{kind}")
    if label == "repeated":
        field.label = Field.LABEL_REPEATED
    if oneof is not None:
        field.oneof_index = oneof
    # An optional field is the only member of a oneof of its own; those stand behind the others.
    field.proto3_optional = label == "optional"


def descriptors(text):
    """Reads the little of the proto language that webpubsub.proto uses."""
    file = descriptor_pb2.FileDescriptorProto(
        name="webpubsub.proto", package=PACKAGE, syntax="proto3"
    )
    file.dependency.append("google/protobuf/any.proto")
    text = re.sub(r"//.*", "", text)
    for name, body in re.findall(r"message (\w+) \{(.*?)\n\}", text, re.S):
        message, oneof = file.message_type.add(name=name), None
        for line in re.findall(r"oneof \w+ \{|\}|[^;{}]+;", body):
            line = " ".join(line.strip("; \n").split())
            if line.startswith("oneof"):
                oneof = len(message.oneof_decl)
                message.oneof_decl.add(name=line.split()[1])
            elif line == "}":
                oneof = None
            else:
                add_field(message, line, oneof)
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name="_" + field.name)
    return file


def build(message, fields):
    """Fills a message from its meaning."""
    message.SetInParent()
    for name, value in fields.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        target = getattr(message, name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            target.update(value)
        elif field.type == field.TYPE_MESSAGE and isinstance(value, list):
            for item in value:
                build(target.add(), item)
        elif field.type == field.TYPE_MESSAGE:
            build(target, value)
        elif field.type == field.TYPE_BYTES:
            setattr(message, name, base64.b64decode(value, validate=True))
        elif field.type in (field.TYPE_STRING, field.TYPE_BOOL):
            setattr(message, name, value)
        else:
            setattr(message, name, int(value))
    return message


def check(root, case):
    built = build(root(), case["fields"])
    parsed = root.FromString(base64.b64decode(case["frame"], validate=True))
    size = parsed.ByteSize()
    parsed.DiscardUnknownFields()
    if parsed.ByteSize() != size:
        return {"error": f"unknown fields beside {parsed}"}
    if parsed != built:
        return {"error": f"parsed as {parsed}, not as {built}"}
    frames = {
        "again": parsed.SerializeToString(deterministic=True),
        "built": built.SerializeToString(),
        "extended": built.SerializeToString() + FUTURE,
    }
    return {name: base64.b64encode(frame).decode() for name, frame in frames.items()}


def main():
    text = (pathlib.Path(__file__).parent / "webpubsub.proto").read_text(encoding="utf-8")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(descriptors(text))
    roots = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in ("Up", "Down")
    }
    for line in sys.stdin.buffer:
        case = json.loads(line)
        try:
            answer = check(roots[case["root"]], case)
        except Exception as error:  # told to the test, which knows the case
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer))


main()

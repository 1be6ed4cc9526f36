"""The protocol's messages as Triton prints them in JSON, integers as numbers.

Field and enum names are those of the message.

protobuf's own JSON writes 64-bit integers as strings, which Triton's clients do not expect.
"""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def message_to_json(message: Message, *, absent: bool = False) -> dict[str, Any]:
    """Every field of a message, defaults included.

    Args:
        message: what is printed.
        absent: print sub-messages that are not set too, as statistics do; a configuration does not.
    """
    result: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not absent and not message.HasField(field.name):
            continue
        result[field.name] = _field(field, getattr(message, field.name), absent)
    return result


def _field(field: Any, value: Any, absent: bool) -> Any:
    if _is_map(field):
        entry = field.message_type.fields_by_name["value"]
        return {str(key): _value(entry, value[key], absent) for key in sorted(value)}
    if field.is_repeated:
        return [_value(field, element, absent) for element in value]
    return _value(field, value, absent)


def _value(field: Any, value: Any, absent: bool) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return message_to_json(value, absent=absent)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    return value


def _is_map(field: Any) -> bool:
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    return is_message and bool(field.message_type.GetOptions().map_entry)

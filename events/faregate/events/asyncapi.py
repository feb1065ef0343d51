"""The AsyncAPI 3.0 document: every channel, message and operation, seen from Faregate."""

import json
from typing import Any

from faregate.events.codec import CONTENT_TYPE, encode
from faregate.events.examples import examples
from faregate.events.topics import INPUT_TOPICS, TOPICS, Topic, dlq_topic
from faregate.events.types import EVENT_TYPES

CONTRACT_VERSION = "1.1.0"
"""Of the contract, not of the product: rises when a type or topic is added or goes."""
_KAFKA_BINDING = "0.5.0"
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 256}
_DEAD_LETTER_HEADERS = {
    "faregate-topic": "The topic that the record was read from.",
    "faregate-partition": "Its partition there, in decimal.",
    "faregate-offset": "Its offset there, in decimal.",
    "faregate-error": "A short code, e.g. invalid_data.",
    "faregate-message": "What is wrong with it, for people.",
    "faregate-attempts": "How often it was tried, in decimal.",
    "faregate-first-seen": "When it was first read (RFC 3339).",
}


def asyncapi_document() -> dict[str, Any]:
    """Build the document as plain data."""
    dead = [dlq_topic(TOPICS[name]) for name in INPUT_TOPICS]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Faregate",
            "version": CONTRACT_VERSION,
            "description": "Prepaid credits for event-driven pipelines. Events are CloudEvents "
            "1.0, written in structured mode; binary mode is read too. Schemas are "
            "BACKWARD_TRANSITIVE: a breaking change is a new type.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {topic.name: _channel(topic) for topic in [*TOPICS.values(), *dead]},
        "operations": {
            **{f"{_verb(name)}.{name}": _operation(_verb(name), name) for name in TOPICS},
            **{f"send.{topic.name}": _operation("send", topic.name) for topic in dead},
        },
        "components": {
            "messages": {
                **{
                    name: _message(topic, name) for topic in TOPICS.values() for name in topic.types
                },
                "DeadLetter": _dead_letter(),
            }
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    is_dead = topic.name not in TOPICS
    names = ("DeadLetter",) if is_dead else topic.types
    return {
        "address": topic.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": [topic.cleanup],
                    "retention.ms": topic.retention_ms,
                    "max.message.bytes": topic.max_message_bytes,
                },
                "bindingVersion": _KAFKA_BINDING,
            }
        },
    }


def _verb(name: str) -> str:
    return "receive" if name in INPUT_TOPICS else "send"


def _operation(action: str, name: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{name}"}}


def _message(topic: Topic, name: str) -> dict[str, Any]:
    example: Any = json.loads(encode(examples()[name])[0])
    summary = (EVENT_TYPES[name].__doc__ or name).partition("\n")[0]
    return {
        "name": name,
        "title": name,
        "summary": summary,
        "contentType": CONTENT_TYPE,
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {
            "type": "object",
            "required": ["specversion", "id", "source", "type", "data"],
            "properties": {
                "specversion": {"const": "1.0"},
                "id": {**_TEXT, "description": "With source: identifies the event for ever."},
                "source": {**_TEXT, "description": "The program that says so."},
                "type": {"const": name},
                "time": {"type": "string", "format": "date-time"},
                "datacontenttype": {"const": "application/json"},
                "subject": _TEXT,
                "correlationid": {**_TEXT, "description": "By default the pipeline's id."},
                "causationid": {**_TEXT, "description": "The id of the event that led to this."},
                "traceparent": {**_TEXT, "description": "W3C Trace Context."},
                "data": {"$ref": f"./{topic.name}/{name}.schema.json"},
            },
        },
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": topic.key},
                "bindingVersion": _KAFKA_BINDING,
            }
        },
        "examples": [{"name": name, "payload": example}],
    }


def _dead_letter() -> dict[str, Any]:
    return {
        "name": "DeadLetter",
        "title": "DeadLetter",
        "summary": "A record that can never be processed, its bytes untouched.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": list(_DEAD_LETTER_HEADERS),
            "properties": {
                name: {"type": "string", "description": text}
                for name, text in _DEAD_LETTER_HEADERS.items()
            },
        },
        "payload": {"description": "The value as it was read; its key and headers are kept too."},
    }

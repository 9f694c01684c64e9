"""How bytes come and go: Kafka, ZMQ, ADARA, tape files, dead letters."""

from consumers.transport.adara_settings import AdaraSection
from consumers.transport.adara_sink import AdaraSink
from consumers.transport.adara_source import AdaraSource
from consumers.transport.dead_letters import DeadLetters
from consumers.transport.kafka_connection import create_topics
from consumers.transport.kafka_facts import describe_broker
from consumers.transport.kafka_settings import KafkaSection, KafkaTopics, consumer_arguments
from consumers.transport.kafka_sink import KafkaSink
from consumers.transport.kafka_source import KafkaSource
from consumers.transport.retention_settings import Keep
from consumers.transport.source_choice import SourceSection
from consumers.transport.tape_file import TapeReader, TapeWriter, read_tape
from consumers.transport.tape_sink import TapeSink
from consumers.transport.tape_source import Taped, TapeSource
from consumers.transport.zmq_settings import ZmqSection
from consumers.transport.zmq_sink import zmq_sink
from consumers.transport.zmq_source import zmq_source

__all__ = [
    "AdaraSection",
    "AdaraSink",
    "AdaraSource",
    "DeadLetters",
    "KafkaSection",
    "KafkaSink",
    "KafkaSource",
    "KafkaTopics",
    "Keep",
    "SourceSection",
    "TapeReader",
    "TapeSink",
    "TapeSource",
    "TapeWriter",
    "Taped",
    "ZmqSection",
    "consumer_arguments",
    "create_topics",
    "describe_broker",
    "read_tape",
    "zmq_sink",
    "zmq_source",
]

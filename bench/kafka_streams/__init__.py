"""Kafka Streams, a Java job (`Job.java`), compiled where a JDK is present, run by the pipeline's Java."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from app.config import settings
from app.devkafka.artifacts import java_executable, kafka_classpath, make_once
from bench.processes import BenchError

SOURCE = Path(__file__).with_name("Job.java")
COMPILE_SECONDS_MAX = 120.0

# what Kafka's class path, pinned in app/devkafka/artifacts.lock, lacks; the client is newer than the broker
JARS = {  # SHA-256 by coordinate
    "org.apache.kafka:kafka-clients:4.3.0": (
        "97a5b492d4ad658fd2dfba969fa0e403c2e38c971fb1e083da4e391471925fc1"
    ),
    "org.apache.kafka:kafka-streams:4.3.0": (
        "aa3a70c72cb04c72eabcf6d04762c3a3ca8522e93654eca9180e7877172433c4"
    ),
    "org.rocksdb:rocksdbjni:10.1.3": "e7f925287d9fe2574fb7c7a86f7facaa9b8ab602a2eed0e598bf633528121498",
}


def missing() -> str | None:
    """Why it can't take part."""
    return None if shutil.which("javac") else "no JDK (javac) found"


def command(directory: Path) -> list[str]:
    """Compile the job into `directory`; the command that runs it."""
    class_path = os.pathsep.join([*map(str, _jars()), kafka_classpath()])
    classes = directory / "kafka-streams-job"
    compiler = ["javac", "--release", "17", "-cp", class_path, "-d", str(classes), str(SOURCE)]
    done = subprocess.run(compiler, capture_output=True, text=True, timeout=COMPILE_SECONDS_MAX, check=False)
    if done.returncode:
        raise BenchError(f"{SOURCE.name} does not compile:\n{done.stderr}")
    flags = ["-Xmx1g", "--enable-native-access=ALL-UNNAMED"]
    return [str(java_executable()), *flags, "-cp", os.pathsep.join([str(classes), class_path]), "Job"]


def _jars() -> list[Path]:
    label = "downloading Kafka Streams (70 MB)"
    directory = make_once(settings().cache_dir / "kafka-streams-4.3.0-clients", label, _download)
    return [directory / _file_name(coordinate) for coordinate in JARS]


def _download(directory: Path) -> None:
    from jgo.maven import MavenContext

    repository = directory / "repository"
    maven = MavenContext(repo_cache=repository, local_repos=[], timeout=60)
    for coordinate, sha256 in JARS.items():
        group, artifact, version = coordinate.split(":")
        jar = Path(maven.project(group, artifact).at_version(version).artifact().resolve())
        with jar.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise BenchError(f"{coordinate} has not the SHA-256 pinned in {__name__}")
        jar.rename(directory / _file_name(coordinate))
    shutil.rmtree(repository)


def _file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"

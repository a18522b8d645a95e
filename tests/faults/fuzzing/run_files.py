"""Files of a run and of its parts: recipes, records, states, caches of teachers, packed text."""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from minitron.artifacts.artifact import write_artifact
from minitron.artifacts.finished import find_finished
from minitron.artifacts.header import HEADER_FILE as ARTIFACT_FILE
from minitron.artifacts.json_files import read_record
from minitron.artifacts.resume import SavedState, record_file
from minitron.checkpoints.checkpoint import STUDENTS_FILE
from minitron.checkpoints.students import read_students
from minitron.cli.arguments import source
from minitron.cli.commands import status as status_command
from minitron.data.sequence_file import SequenceFileHeader, open_sequence_file
from minitron.distill.shard_files import INDEX_FILE, _Reader
from minitron.distill.sharding import save_weights
from minitron.distill.teachers.cache_file import HEADER_FILE as CACHE_FILE
from minitron.distill.teachers.cache_file import open_teacher_cache
from minitron.distill.training.record import DistillRecord, RateSearch
from minitron.distill.training.resumed import check_record
from minitron.distill.training.states import HISTORY_FILE, MARKER_FILE, last_whole_state
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.models.nested import NestedStudent, NestedStudents
from minitron.pipeline.run_folder import CANDIDATES_FILE, STATUS_FILE
from minitron.pipeline.status import StatusFile
from minitron.recipe.load import load_recipe
from minitron.search.record import CandidateRecord, HeldOut, ModelEstimate, SearchRecord
from tests.faults.fuzzing.mutations import deep, mutated_bytes, mutated_value
from tests.faults.fuzzing.target import Target, from_bytes, from_json, from_safetensors
from tests.support import teacher_caches
from tests.support.models import make_tiny_shape
from tests.support.recipes import write_tiny_recipe

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(9 * ['*' + before])}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_TEXTS = (
    BOMB,
    "a: &a [*a]\n",
    "name: !!python/object/apply:os.system ['true']\n",
    "name: !!python/name:os.system\n",
    "name: !!timestamp 1\nseed: !!int x\n",
    "? [a, {b: c}]\n: 1\n",
    "name: a\nname: b\n",
    "seed: 0x" + "f" * 6_000 + "\n",
    "seed: " + "9" * 6_000 + "\n",
    "seed: " + "1:" * 2_000 + "1\n",
    "a: " * 30 + "1\n",
    "- " * 900 + "1\n",
    "name: 'a\u2028b\x85c'\n",
    "<<: {<<: {name: a}}\n",
    "name: !!binary ////\nseed: .nan\n",
    "--- a\n--- b\n",
    "%YAML 9.9\n---\nname: a\n",
)


def run_targets(folder: Path) -> Iterator[Target]:
    """The targets, whose files lie in a folder that is written here."""
    yield from _recipes(folder)
    yield from _records(folder)
    yield from _states(folder)
    yield from _caches(folder)


def _recipes(folder: Path) -> Iterator[Target]:
    path = write_tiny_recipe(_new(folder / "recipe"))
    text = path.read_text()
    values = yaml.safe_load(text)

    def make(rng: random.Random) -> bytes:
        draw = rng.random()
        if draw < 0.4:
            changed = mutated_value(values, rng)
            return json.dumps(changed).encode("utf-8", "surrogatepass")  # which is YAML, too
        if draw < 0.7:
            return mutated_bytes(text.encode(), rng)
        if draw < 0.75:
            return deep(rng)
        extra = rng.choice(YAML_TEXTS)
        whole = rng.choice((extra, text + extra, extra + text, text.replace("seq_len: 16", extra.strip(), 1)))
        return whole.encode("utf-8", "surrogatepass")

    setting = folder / "recipe" / "set.txt"

    def override() -> None:
        load_recipe(path, (f"distill.tokens={setting.read_bytes().decode('utf-8', 'replace')}",))

    def data() -> None:
        given = "{path: " + setting.read_bytes().decode("utf-8", "replace") + "}"
        try:
            source(given)
        except argparse.ArgumentTypeError:
            return

    yield Target(
        name="recipe",
        path=folder / "recipe" / "hostile.yaml",
        make=make,
        read=lambda: load_recipe(folder / "recipe" / "hostile.yaml"),
    )
    yield Target(name="override of --set", path=setting, make=_short_texts, read=override)
    yield Target(name="source of --data", path=setting, make=_short_texts, read=data)


def _short_texts(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return rng.choice(YAML_TEXTS).encode("utf-8", "surrogatepass")
    return mutated_bytes(rng.choice((b"{path: a.jsonl, weight: 0.5, list: [1, 2]}", b"256", b"1_000_000")), rng)


def _records(folder: Path) -> Iterator[Target]:
    home, shape = _new(folder / "run"), make_tiny_shape()
    writer = StatusFile(home / STATUS_FILE, ["score", "search"])
    writer.begin("score")

    def status() -> None:
        status_command.run(argparse.Namespace(run_folder=home, json=False))

    yield Target(
        name="run status", path=home / STATUS_FILE, make=from_json(_read(home / STATUS_FILE)), read=_silent(status)
    )
    size = ModelEstimate(params=shape.params, memory=memory_bytes(shape, Workload(context_tokens=64)), tokens_per_s=2.5)
    candidate = CandidateRecord(
        layers=(0, 1),
        shape=shape,
        params=1,
        memory=size.memory,
        tokens_per_s=None,
        retained=0.5,
        zero_shot=HeldOut(loss=1.0, kl=0.5),
    )
    search = SearchRecord(
        chosen_by="kl",
        budget_bytes=9,
        device=None,
        num_shapes=3,
        num_feasible=2,
        teacher=size,
        source=size,
        candidates=(candidate,),
    )
    candidates, record, rates = home / CANDIDATES_FILE, home / "record.json", home / "rates.json"
    trial = {"rate": 1e-3, "loss": 2.5}
    searched = {"rate": 1e-3, "reason": "a", "start": 3.5, "trials": [trial], "steps": 3, "seconds": 1.5}
    distilled = {"curve": [[16, 2.5], [32, 2.0]], "tokens": 32, "seconds": 1.5, "validation": None, "rate": None}
    yield Target(
        name="candidates",
        path=candidates,
        make=from_json(_plain(search)),
        read=lambda: read_record(candidates, SearchRecord),
    )
    yield Target(
        name="record of a training",
        path=record,
        make=from_json(distilled),
        read=lambda: read_record(record, DistillRecord),
    )
    yield Target(
        name="search of a rate",
        path=rates,
        make=from_json(searched),
        read=lambda: read_record(rates, RateSearch),
    )
    students = NestedStudents(students=(NestedStudent(name="a", shape=shape, layers=(0, 1, 2)),), removed=(7, 6))
    yield Target(
        name="students", path=home / STUDENTS_FILE, make=from_json(_plain(students)), read=lambda: read_students(home)
    )
    finished, inputs = folder / "finished", {"settings": {"a": 1}, "seed": 3}
    with write_artifact(finished, stage="score", inputs=inputs, seed=3) as partial:
        (partial / "note.txt").write_text("a")
    header = finished / ARTIFACT_FILE
    yield Target(
        name="header of an artifact",
        path=header,
        make=from_json(_read(header)),
        read=lambda: find_finished(finished, {"settings": {"a": 2}, "seed": 3}),
    )


def _states(folder: Path) -> Iterator[Target]:
    saved = SavedState(_new(folder / "saved"), {"recipe": "a", "sizes": [1, 2]})
    saved.save_record("done", {"blocks": [1, 2, 3]})
    saved.save_tensors("sums", {"a": torch.ones(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)})
    record, tensors = record_file(folder / "saved", "done"), folder / "saved" / "sums.safetensors"
    yield Target(
        name="saved record", path=record, make=from_json(_read(record)), read=lambda: saved.load_record("done")
    )
    yield Target(
        name="saved tensors",
        path=tensors,
        make=from_safetensors(tensors.read_bytes(), inner="identity"),
        read=lambda: saved.load_tensors("sums"),
    )
    state = _new(folder / "training" / "checkpoint-3")
    marker, history = {"sharded": False}, {"log_history": [{"step": 1, "loss": 2.5}, {"step": 3, "eval_loss": 1.0}]}
    whole = {"epoch": 1.0, "global_step": 3, "max_steps": 5, "best_metric": None, "stateful_callbacks": {}} | history
    (state / MARKER_FILE).write_text(json.dumps(marker))
    (state / HISTORY_FILE).write_text(json.dumps(whole))
    yield Target(
        name="mark of a training's state",
        path=state / MARKER_FILE,
        make=from_json(marker),
        read=lambda: last_whole_state(state.parent, sharded=False),
    )
    yield Target(
        name="record of a training's state",
        path=state / HISTORY_FILE,
        make=from_json(whole),
        read=lambda: check_record(state),
    )
    shards = _new(folder / "shards")
    save_weights(torch.nn.Linear(3, 5), shards)
    index = shards / "sharded" / INDEX_FILE
    yield Target(
        name="index of a sharded state",
        path=index,
        make=from_bytes(index.read_bytes()),
        read=lambda: _Reader(index.parent).read_metadata(),
    )


def _caches(folder: Path) -> Iterator[Target]:
    cache, sequences_NT = folder / "cache", teacher_caches.make_blocks()
    teacher_caches.write(cache)
    header = cache / CACHE_FILE
    shard = sorted(cache.glob("*.bin"))[0]

    def read() -> None:
        open_teacher_cache(cache).read(1, sequences_NT[1], device=torch.device("cpu"))

    whole = header.read_bytes()
    yield Target(
        name="header of a teacher's cache",
        path=header,
        make=from_json(json.loads(whole)),
        read=read,
        clean=lambda: header.write_bytes(whole) and None,
    )
    yield Target(name="shard of a teacher's cache", path=shard, make=from_bytes(shard.read_bytes()), read=read)
    packed = SequenceFileHeader(version=2, seq_len=5, num_sequences=3, dtype="uint16", seed=1, made_from={"text": "a"})
    values, data = json.loads(packed.model_dump_json()), bytes(3 * packed.sequence_bytes)
    path = _new(folder / "packed") / "text.bin"

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return mutated_bytes(packed.to_bytes() + data, rng)
        text = from_json(values)(rng)
        length = len(text) if rng.random() < 0.9 else rng.choice((0, 2**60, 2**64 - 1))
        sized = data if rng.random() < 0.7 else data * rng.choice((2, 2000))
        return b"minitron blocks\n" + length.to_bytes(8, "little") + text + sized

    def indexed() -> None:
        found = open_sequence_file(path)
        found[0], found[-1:], found.counted(0)

    yield Target(name="packed text", path=path, make=make, read=indexed)


def _silent(run: Callable[[], None]) -> Callable[[], None]:
    import contextlib
    import io

    def read() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            run()

    return read


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _plain(record: Any) -> Any:
    return json.loads(json.dumps(asdict(record)))


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder

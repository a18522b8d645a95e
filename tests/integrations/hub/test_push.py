"""An upload holds the checkpoint and its card, nothing of the run, and is made only when it is asked for."""

import base64
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import minitron
from minitron.cli.main import main
from minitron.errors import CheckpointError
from minitron.integrations.hub.plan import plan_push
from minitron.integrations.hub.upload import upload
from tests.pipeline.conftest import _whole
from tests.support.commands import fail

REPO = "owner/tiny-hybrid"
# Of runs, machines and people, not of the checkpoint.
NEVER = (
    "artifact.json", "status.json", "recipe.json", "trainer_state.json", "model.lock", ".env",
    "notes.md", "optimizer.pt", "shard.safetensors.partial", "other.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pushed")
    whole = _whole(folder)
    recipe = minitron.load_recipe(whole.recipe_path).model_dump(mode="json")
    (whole.folder / "recipe.json").write_text(json.dumps(recipe))
    return whole.folder


@pytest.fixture
def student(run_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(run_folder, tmp_path / "run")
    return tmp_path / "run" / "distill" / "checkpoint"


class Hub(ThreadingHTTPServer):
    """Stands for the hub on this machine: notes what is asked, and takes files in the body of a commit."""

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.status = status
        self.asked: list[tuple[str, str, str]] = []
        self.files: dict[str, bytes] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        hub: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        hub.asked.append((self.path, self.headers.get("Authorization", ""), body))
        answer: dict[str, Any] = {"url": f"{hub.endpoint}/{REPO}"}
        if "/preupload/" in self.path:
            named = json.loads(body)["files"]
            answer = {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in named]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{hub.endpoint}/{REPO}/commit/abc", "commitOid": "abc", "success": True}
        data = json.dumps(answer).encode()
        self.send_response(hub.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    monkeypatch.setenv("HF_TOKEN", "hf_token")


def served(status: int) -> Iterator[Hub]:
    hub = Hub(status)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


@pytest.fixture
def hub(online: None) -> Iterator[Hub]:
    yield from served(200)


@pytest.fixture
def forbidding_hub(online: None) -> Iterator[Hub]:
    yield from served(403)


def test_a_plan_has_the_checkpoint_and_nothing_of_the_run(student: Path) -> None:
    for name in NEVER:
        (student / name).write_text("{}")
    (student / "state").mkdir()
    plan = plan_push(student, REPO, private=True)
    expected = {"README.md", "config.json", "lineage.json", "model.safetensors"}
    assert set(plan.files) == expected | {path.name for path in student.glob("tokenizer*")}
    assert set(plan.left_out) == {*NEVER, "state"}
    assert plan.total_bytes == sum(plan.files.values())
    assert plan.files["model.safetensors"] == (student / "model.safetensors").stat().st_size


def test_the_card_has_the_results_of_the_run(student: Path) -> None:
    metrics = json.loads((student.parents[1] / "evaluate" / "metrics.json").read_text())
    card = huggingface_hub.ModelCard(plan_push(student, REPO, private=True).card)
    found = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert found == {
        "loss": metrics["distilled"]["loss"],
        "bits_per_byte": metrics["distilled"]["bits_per_byte"],
        "kl_divergence": metrics["distilled"]["kl_to_teacher"],
        "exact_match": metrics["distilled"]["exact_match"],
    }
    teacher, model = (metrics[name]["loss"] for name in ("teacher", "distilled"))
    assert f"| held-out loss, nats a token | {teacher:.4f} | {model:.4f} |" in card.text
    assert "this model **fits**" in card.text
    assert f'from_pretrained("{REPO}")' in card.text


def test_a_checkpoint_outside_of_a_run_has_no_results(student: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(student, alone)
    plan = plan_push(alone, REPO, private=True)
    assert "Not measured yet" in plan.card
    assert [problem.split(":")[0] for problem in plan.problems] == [
        "base_model must be owner/name on the hub to be linked, it is 'teacher'",
        "there is no license",
        "there are no results",
    ]


def test_a_checkpoint_that_is_being_written_is_refused(student: Path, tmp_path: Path) -> None:
    partial = tmp_path / "distill.partial" / "checkpoint"
    shutil.copytree(student, partial)
    with pytest.raises(CheckpointError, match="still being written"):
        plan_push(partial, REPO, private=True)
    (student.parent / "artifact.inputs").write_text("0" * 64)
    with pytest.raises(CheckpointError, match="still being written"):
        plan_push(student, REPO, private=True)
    (student.parent / "artifact.inputs").unlink()
    (student / "model.safetensors").write_bytes((student / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="truncated"):
        plan_push(student, REPO, private=True)


@pytest.mark.parametrize("repo", ["tiny", "owner/tiny@main", "a/b/c", "../tiny"])
def test_a_repository_is_an_owner_and_a_name(student: Path, repo: str) -> None:
    with pytest.raises(CheckpointError, match="must be owner/name"):
        plan_push(student, repo, private=True)


def test_nothing_is_uploaded_unless_it_is_asked_for(
    student: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minitron.api.publishing.push.upload", lambda *_, **__: pytest.fail("uploaded"))
    assert main(["push", str(student), REPO, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["commit"], found["private"], found["repo"]) == (None, True, REPO)
    assert main(["push", str(student), REPO, "--public"]) == 0
    shown = capsys.readouterr().out
    assert "public where it is new" in shown
    assert "nothing was uploaded; --yes uploads" in shown


def test_an_upload_is_one_commit_of_the_planned_files(student: Path, hub: Hub) -> None:
    plan = plan_push(student, REPO, private=True)
    assert upload(plan, message="first", endpoint=hub.endpoint) == f"{hub.endpoint}/{REPO}/commit/abc"
    assert {name: len(data) for name, data in hub.files.items()} == dict(plan.files)
    assert hub.files["README.md"] == plan.card.encode()
    assert hub.files["model.safetensors"] == (student / "model.safetensors").read_bytes()
    path, token, body = hub.asked[0]
    assert (path, token) == ("/api/repos/create", "Bearer hf_token")
    assert json.loads(body)["visibility"] == "private"
    assert [path for path, _, _ in hub.asked].count(f"/api/models/{REPO}/commit/main") == 1


def test_a_token_that_may_not_write_is_said(student: Path, forbidding_hub: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be written with the token that is set \(the hub answered 403\)"):
        upload(plan_push(student, REPO, private=True), message="first", endpoint=forbidding_hub.endpoint)


@pytest.mark.usefixtures("online")
def test_a_hub_that_is_not_there_is_said(student: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be uploaded to the hub now"):
        upload(plan_push(student, REPO, private=True), message="first", endpoint="http://127.0.0.1:9")


def test_no_token_and_no_network_are_one_line_each(
    student: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "an upload needs a token that may write" in fail(capsys, "push", str(student), REPO, "--yes")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    assert "unset HF_HUB_OFFLINE to upload" in fail(capsys, "push", str(student), REPO, "--yes")

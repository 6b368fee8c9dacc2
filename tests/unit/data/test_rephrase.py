"""Rephrased captions: every answer kept, bad ones named, interrupted runs resumed, the result a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from climp_bench.data.answers import Answer, Ledger, Line, judge
from climp_bench.data.caption_table import Captioned, of_dataset, of_file
from climp_bench.data.catalogue import open_published
from climp_bench.data.endpoint import Endpoint, open_endpoint
from climp_bench.data.local_llm import LocalModel
from climp_bench.data.published import published
from climp_bench.data.rephrase import Rephrasing, read_prompt
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.table_source import TableDataset
from climp_bench.errors import DataError, UsageError, WeightsError
from tests.fake_llm import Reply, said, serving, write_llama

PAIRS = ScenesDataset("scenes-captions", 4)
IMAGES = of_dataset(PAIRS)
PROMPT = read_prompt("caption")
LONG = "A long caption that says very much about what is to be seen in it"


class Scripted:
    """Says ``LONG`` and the number of the prompt, or what the script has for a prompt's caption."""

    batch = 3

    def __init__(self, script: dict[str, Answer] | None = None, stop_after: int | None = None) -> None:
        self.script, self.stop_after = script or {}, stop_after
        self.asked: list[str] = []
        self.facts: dict[str, Any] = {"name": "scripted"}

    def answer(self, prompts: Sequence[tuple[str, str]]) -> list[Answer]:
        answers = []
        for _, user in prompts:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            caption = user.rpartition("Caption: ")[2]
            self.asked.append(caption)
            answers.append(self.script.get(caption, Answer(f"{LONG}: {caption}")))
        return answers


def rephrasing(folder: Path, images: Sequence[Captioned] = IMAGES, **facts: Any) -> Rephrasing:
    how = {"source": "scenes", "prompt": PROMPT, "facts": {"name": "scripted"}, "min_words": 8} | facts
    return Rephrasing(images=images, folder=folder, **how)


def run(folder: Path, model: Scripted, **facts: Any) -> Rephrasing:
    work = rephrasing(folder, **facts)
    work.run(model, work.left(), lambda line: None)
    return work


def test_every_caption_is_asked_once_and_the_result_is_the_published_set(tmp_path: Path) -> None:
    model = Scripted()
    folder = tmp_path / "flickr8k-rephrased"
    work = run(folder, model)
    assert model.asked == [caption for i in range(4) for caption in PAIRS.captions(i)]
    assert work.write_dataset() == (4, 0)
    entry = next(one for one in published() if one.name == "flickr8k-rephrased")
    table = open_published(replace(entry, n=4), [tmp_path])
    assert isinstance(table, TableDataset) and table.kind == "retrieval" and len(table) == 4
    for i in range(4):
        assert table.captions(i) == tuple(f"{LONG}: {caption}" for caption in PAIRS.captions(i))
        assert (table.image(i, (1, 1)) == PAIRS.image(i, (224, 224))).all()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["images"], manifest["captions"], manifest["prompt"]["version"]) == (4, 20, 1)
    assert manifest["model"] == {"name": "scripted"} and len(manifest["source_sha256"]) == 64


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    run(tmp_path / "whole", Scripted())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Scripted(stop_after=7))
    lines = tmp_path / "cut/captions.jsonl"
    assert len(lines.read_text().splitlines()) == 6
    with lines.open("a") as file:  # killed in the middle of a line
        file.write('{"image": 1, "caption": 1, "te')
    second = Scripted()
    run(tmp_path / "cut", second)
    assert len(second.asked) == 14
    assert lines.read_bytes() == (tmp_path / "whole/captions.jsonl").read_bytes()
    third = Scripted()
    run(tmp_path / "cut", third)
    assert third.asked == []


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("", "empty"), ("  \n ", "empty"), ('""', "empty"),
        ("I'm sorry, but I can't help with that at all today, so please ask me again", "refused"),
        ("I\u2019m unable to describe persons in this photograph for reasons of policy, sorry", "refused"),
        ("As an AI language model I do not see the photograph that you speak of here", "refused"),
        ("A dog runs.", "short"),
        ("I see a dog that runs along the beach in the evening sun", "ok"),
        ('"A sorry dog runs along the beach\nin the evening sun"', "ok"),
    ],
)  # fmt: skip
def test_what_is_no_caption_is_recognised(said: str, status: str) -> None:
    text, found, reason = judge(Answer(said), 8)
    assert found == status and bool(reason) == (status != "ok")
    assert "\n" not in text and '"' not in text


def test_bad_answers_are_kept_with_their_reason_left_out_and_asked_again_on_demand(tmp_path: Path) -> None:
    bad = PAIRS.captions(1)
    script = {caption: Answer("") for caption in bad} | {PAIRS.captions(2)[0]: Answer("", fault="not JSON")}
    work = run(tmp_path, Scripted(script))
    kept = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert len(kept) == 20
    assert [row["status"] for row in kept if row["status"] != "ok"] == ["empty"] * 5 + ["malformed"]
    assert next(row for row in kept if row["status"] == "malformed")["reason"] == "not JSON"
    assert work.write_dataset() == (3, 1)
    assert len(TableDataset(tmp_path).captions(1)) == 4, "image 2 lost one of its five"
    assert rephrasing(tmp_path).left() == []
    again = rephrasing(tmp_path)
    jobs = again.left(retry=True)
    assert [(job.image, job.caption) for job in jobs] == [*((1, k) for k in range(5)), (2, 0)]
    again.run(Scripted(), jobs, lambda line: None)
    assert (
        again.write_dataset() == (4, 0) and len((tmp_path / "captions.jsonl").read_text().splitlines()) == 26
    )


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    class Second(Scripted):
        def answer(self, prompts: Sequence[tuple[str, str]]) -> list[Answer]:
            with pytest.raises(DataError, match="another process is at work here"):
                run(tmp_path, Scripted())
            return super().answer(prompts)

    assert run(tmp_path, Second()).left() == []


def test_a_model_that_never_answers_usably_is_stopped_early(tmp_path: Path) -> None:
    images = of_dataset(ScenesDataset("scenes-captions", 40))
    everything = {caption: Answer("No.") for image in images for caption in image.captions}
    model = Scripted(everything)
    with pytest.raises(DataError, match=r"none of the first 21 answers is usable \(1 words, fewer than 8\)"):
        run(tmp_path, model, images=images)
    assert len(model.asked) == 21 == len((tmp_path / "captions.jsonl").read_text().splitlines())


@pytest.mark.parametrize("what", ["source", "prompt", "facts", "min_words", "images"])
def test_a_folder_of_other_captions_is_refused(what: str, tmp_path: Path) -> None:
    run(tmp_path, Scripted())
    other: dict[str, Any] = {
        "source": "else", "prompt": read_prompt("image"), "facts": {"name": "other"}, "min_words": 9,
        "images": of_dataset(ScenesDataset("scenes-captions", 5)),
    }  # fmt: skip
    named = {"facts": "model", "images": "source_sha256"}.get(what, what)
    with pytest.raises(UsageError, match=f"made otherwise are here: .*{named}"):
        rephrasing(tmp_path, **{what: other[what]})
    rephrasing(tmp_path, facts=None)


def test_one_caption_an_image_is_made_of_all_of_its_captions(tmp_path: Path) -> None:
    prompt = read_prompt("image")
    model = Scripted()
    work = run(tmp_path, model, prompt=prompt)
    assert len(model.asked) == 4
    assert all(caption in model.asked[2] for caption in PAIRS.captions(2))
    assert work.write_dataset() == (4, 0) and len(TableDataset(tmp_path).captions(0)) == 1


def test_a_limit_leaves_the_rest_and_only_whole_images_are_written(tmp_path: Path) -> None:
    work = rephrasing(tmp_path)
    work.run(Scripted(), work.left(12), lambda line: None)
    assert (len(work.left(12)), len(work.left())) == (0, 8)
    assert work.write_dataset() == (2, 0)


def test_a_line_that_is_not_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    for text in (
        "not json",
        '{"image": 1}',
        "[]",
        '{"image":0,"caption":0,"id":"","source":"","text":"","status":"x"}',
    ):
        path.write_text(text + "\n")
        with pytest.raises(DataError, match=r"captions\.jsonl, line 1: not a line of this file"):
            Ledger(path)
    line = Line(0, 0, "a", "b", "c\u2028d", "ok")
    path.unlink()
    Ledger(path).append([line])
    assert Ledger(path).lines == {(0, 0): line}


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[long]\nversion = 3\nsystem = "s"\nuser = "Make {caption} long."\n[no]\nversion = 1\n'
                    'system = "s"\nuser = "Make it long."\n[half]\nversion = 1\n')  # fmt: skip
    prompt = read_prompt(f"{path}:long")
    assert prompt.of("{captions} 100%") == ("s", "Make {captions} 100% long.")
    assert prompt.facts()["version"] == 3 and not prompt.whole_images
    with pytest.raises(UsageError, match="prompt"):
        read_prompt("captoin")
    with pytest.raises(DataError, match="no place for captions"):
        read_prompt(f"{path}:no")
    with pytest.raises(DataError, match="not a prompt"):
        read_prompt(f"{path}:half")


def test_captions_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"bytes of a")
    (tmp_path / "c.csv").write_text('image,caption\na.jpg,"One, two"\na.jpg,Three\nb.jpg,Four\n')
    first, second = of_file(tmp_path / "c.csv")
    assert (first.id, first.captions) == ("a.jpg", ("One, two", "Three"))
    assert first.picture is not None and first.picture() == (".jpg", b"bytes of a")
    assert second.captions == ("Four",) and second.picture is None
    lines = [
        {"file_name": "a.jpg", "captions": ["One, two", "Three"]},
        {"file_name": "b.jpg", "captions": ["Four"]},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [image.captions for image in of_file(tmp_path / "c.jsonl")] == [first.captions, second.captions]
    for name, text, message in [
        ("x.csv", "image,caption\na.jpg,\n", "row 1: a caption is empty"),
        ("x.jsonl", '{"image": "a.jpg", "caption": "One"}\n{', "line 2: not JSON"),
        ("y.jsonl", '{"image": "a.jpg", "caption": 3}\n', "row 1: a caption is empty or no text"),
        ("y.csv", "picture,caption\na,b\n", "no column of images"),
        ("z.csv", "", "no rows"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            of_file(tmp_path / name)
    with pytest.raises(DataError, match="has no captions"):
        of_dataset(ScenesDataset("scenes-shape", 3))


def endpoint(url: str, **how: Any) -> tuple[Endpoint, list[float]]:
    waits: list[float] = []
    return Endpoint(url, "some-model", sleep=waits.append, **how), waits


def test_an_endpoint_gets_model_messages_decoding_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with serving(lambda request, k: said(f"answer {request['messages'][1]['content']}", "length")) as service:
        model = open_endpoint(service.url, "some-model", "MY_KEY", max_tokens=50, temperature=0.5, seed=3)
        assert model.answer([("be brief", "one"), ("be brief", "two")]) == [
            Answer("answer one", cut=True),
            Answer("answer two", cut=True),
        ]
    request = next(one for one in service.requests if one["messages"][1]["content"] == "one")
    assert request == {
        "model": "some-model", "max_tokens": 50, "temperature": 0.5, "seed": 3,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}],
    }  # fmt: skip
    assert service.keys == ["Bearer secret"] * 2 and "secret" not in json.dumps(model.facts)
    with pytest.raises(DataError, match="not an address"):
        open_endpoint("localhost:8000", "m", "MY_KEY")


def test_a_busy_service_is_asked_again_after_growing_waits() -> None:
    replies: list[Reply] = [
        (429, b"slow down", {}), (503, b"", {}), (429, b"", {"Retry-After": "7"}), (500, b"", {}),
        said("done"),
    ]  # fmt: skip
    with serving(lambda request, k: replies[k - 1]) as service:
        model, waits = endpoint(service.url)
        assert model.answer([("s", "u")]) == [Answer("done", attempts=5)]
    assert waits == [1, 2, 7, 8]
    with serving(lambda request, k: (429, b"quota is used up", {"Retry-After": "86400"})) as service:
        model, waits = endpoint(service.url, attempts=3)
        with pytest.raises(DataError, match=r"no answer after 3 attempts \(HTTP 429 .*quota is used up\)"):
            model.answer([("s", "u")])
    assert waits == [60, 60]


def test_a_service_that_is_not_there_or_refuses_is_told(tmp_path: Path) -> None:
    with serving(lambda request, k: said("x")) as gone:
        pass
    model, waits = endpoint(gone.url, attempts=4)
    with pytest.raises(DataError, match=r"no answer after 4 attempts \(.*refused"):
        model.answer([("s", "u")])
    assert waits == [1, 2, 4]
    with serving(lambda request, k: (401, b'{"error": "no such key"}', {})) as service:
        model, waits = endpoint(service.url)
        with pytest.raises(DataError, match=r"refused \(HTTP 401 .*no such key"):
            model.answer([("s", "u")])
    assert waits == [] and len(service.requests) == 1


@pytest.mark.parametrize(
    ("reply", "status", "reason"),
    [
        ((200, b"<html>busy</html>", {}), "malformed", "not a chat completion"),
        ((200, b"{}", {}), "malformed", "KeyError"),
        ((200, b'{"choices": []}', {}), "malformed", "IndexError"),
        ((200, b'{"choices": [{"message": {"content": ["x"]}}]}', {}), "malformed", "no text"),
        ((200, b"\xff\xfe", {}), "malformed", "not a chat completion"),
        (said(None), "empty", "nothing"),
        (said("", "content_filter"), "refused", "filtered"),
        ((400, b'{"error": {"code": "content_filter"}}', {}), "refused", "HTTP 400"),
    ],
)
def test_malformed_replies_are_answers_that_are_not_usable(reply: Reply, status: str, reason: str) -> None:
    with serving(lambda request, k: reply) as service:
        (answer,) = endpoint(service.url)[0].answer([("s", "u")])
    _, found, why = judge(answer, 1)
    assert found == status and reason in why


def test_a_local_model_is_greedy_repeats_itself_and_is_told_by_its_digest(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "llama")
    model = LocalModel(str(folder), max_tokens=12, batch=2)
    prompts = [("be long", "a dog"), ("be long", "two cats on a mat")]
    together = model.answer(prompts)
    alone = [LocalModel(str(folder), max_tokens=12).answer([prompt])[0] for prompt in prompts]
    assert together == alone and together[0] != together[1], "padding on the left changes nothing"
    assert all(answer.text for answer in together)
    other = write_llama(tmp_path / "other", "{{ messages[0].content }}|{{ messages[1].content }}>")
    assert LocalModel(str(other), max_tokens=12).answer(prompts) != together
    assert model.facts["max_tokens"] == 12 and len(model.facts["sha256"]) == 64


def test_answers_drawn_at_a_temperature_depend_on_the_seed_only(tmp_path: Path) -> None:
    folder = str(write_llama(tmp_path / "llama"))
    prompts = [("be long", "a dog"), ("be long", "a cat")]
    drawn = [
        LocalModel(folder, max_tokens=12, temperature=1.0, seed=seed).answer(prompts) for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_local_model_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in [("./nowhere", "no such folder"), (str(tmp_path / "empty"), "safetensors")]:
        with pytest.raises(WeightsError, match=message):
            LocalModel(name)
    with pytest.raises(WeightsError, match="--offline"):
        LocalModel("someone/something", offline=True)
    folder = write_llama(tmp_path / "llama")
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="cannot be read"):
        LocalModel(str(folder)).answer([("s", "u")])

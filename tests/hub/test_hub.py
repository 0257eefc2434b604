"""The hub in a box answers the real clients as the hub does."""

from pathlib import Path

import pytest

from tests.hub import inside
from tests.hub.client import WHISPER, client
from tests.hub.datasets import ROWS, SETS
from tests.hub.inside import FILES, WEIGHTS
from tests.hub.server import Hub
from tiny_audio.compose import compose


def test_what_is_in_a_repository_is_read_in_every_way(hub: Hub, tmp_path: Path) -> None:
    old = hub.create("me/model", {"config.json": b"old", "README.md": b"# Mine"})
    hub.repo("me/model").refs["refs/tags/v1"] = hub.repo("me/model").commits[old]
    sha = hub.commit("me/model", FILES)
    hub.commit("me/model", {"config.json": None, "extra": b"x"}, branch="dev/next")
    client(hub, tmp_path, inside.read, old, sha, hub.cdn_url)
    served = [r for r in hub.requests if r.path.startswith("/cdn/") and r.range]
    assert served
    assert all(r.sent < len(WEIGHTS) and r.status == 206 for r in served)
    before = len(hub.requests)
    client(hub, tmp_path, inside.read_offline, sha, offline=True)
    assert len(hub.requests) == before


def test_faults_are_what_clients_meet_and_recover_from(hub: Hub, tmp_path: Path) -> None:
    for name in ("busy", "down", "refused", "broken"):
        hub.create(f"me/{name}", {"model.safetensors": WEIGHTS})
    for name in ("cut", "stall"):
        hub.create(f"me/{name}", {"model.safetensors": WEIGHTS * 14})
        # The client writes, and so keeps, 10 MiB at a time.
        hub.fail(f"^/cdn/me/{name}/", name, times=1, after=12_000_000)
    hub.fail("/me/busy/tree", 429, times=1, retry_after=0)
    hub.fail("/me/down/tree", 503, times=1)
    hub.fail("/me/refused", "refuse")
    hub.fail("/me/broken", 500)
    client(hub, tmp_path, inside.meet_faults, HF_HUB_DOWNLOAD_TIMEOUT="1")
    for name in ("cut", "stall"):
        first, second = (r for r in hub.requests if r.path.startswith(f"/cdn/me/{name}/"))
        assert (first.range, first.sent) == (None, 12_000_000)
        assert second.range == f"bytes={10 << 20}-"
        assert second.sent == len(WEIGHTS) * 14 - (10 << 20)


@pytest.mark.slow
def test_every_set_that_a_preset_names_is_there(stocked_hub: Hub, tmp_path: Path) -> None:
    presets = ["data=loquacious", "data=librispeech", "data=commonvoice", "data=multiasr_gated"]
    configs = [compose([preset]).data for preset in presets]
    configs.append(compose(["+data/eval@data.eval=[open_asr,common_voice,loquacious]"]).data)
    streamed = {}  # one of each set
    for config in configs:
        for source in (*config.train.values(), *config.eval.values()):
            if source.kind == "hub":
                layout, split = SETS[source.path], source.split or "train"
                assert split in layout.configs[source.subset or "default"]
                named = {source.audio_column, source.text_column, source.id_column}
                if source.speaker_column != "speaker":  # the default may be missing
                    named.add(source.speaker_column)
                assert named - {None, ""} <= layout.features.keys(), source
                streamed[source.path] = [source.path, source.subset, split]
    assert streamed.keys() == SETS.keys()
    stocked_hub.add_user("reader", "hf_reader")
    for path in ("speechcolab/gigaspeech", "kensho/spgispeech"):
        stocked_hub.grant(path, "reader", "dataset")
    given = [*streamed.values()]
    out = client(stocked_hub, tmp_path, inside.stream, given, token="hf_reader")
    for (path, _, split), found in zip(given, out, strict=True):
        assert found == [ROWS, sorted(SETS[path].features), 1 + split.startswith("train")], path


def test_of_a_model_only_one_format_is_fetched(stocked_hub: Hub, tmp_path: Path) -> None:
    """openai/whisper-large-v3-turbo holds its weights in four."""
    begin = len(stocked_hub.requests)
    names = client(stocked_hub, tmp_path, inside.fetch_model, WHISPER)
    assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= set(names)
    sent = {Path(r.path).name for r in stocked_hub.requests[begin:] if "/cdn/" in r.path}
    assert sent == {"model.safetensors"}

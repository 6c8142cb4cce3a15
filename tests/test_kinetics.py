from types import SimpleNamespace

import pytest

from video_gn.errors import InputError
from video_gn.kinetics import KineticsData, RowSampler
from video_gn.motion import CLASSES


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [1, 2, 7, 12])
def test_evaluation_deals_every_row_once(total, world_size):
    ranks = [list(RowSampler(total, int, 0, False, rank, world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1  # equally many steps
    assert all(len(rank) == len(RowSampler(total, int, 0, False, 0, world_size)) for rank in ranks)
    rows = [row for rank in ranks for _, row in rank]
    assert sorted(row for row in rows if row is not None) == list(range(total))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_deals_a_permutation_up_to_the_even_split(world_size):
    def epoch_rows(epoch, seed=0):
        ranks = [list(RowSampler(20, lambda: epoch, seed, True, rank, world_size)) for rank in range(world_size)]
        assert {len(rank) for rank in ranks} == {20 // world_size}
        assert {e for rank in ranks for e, _ in rank} == {epoch}
        return [row for rank in ranks for _, row in rank]

    first, second = epoch_rows(0), epoch_rows(1)
    assert len(set(first)) == len(first) == 20 // world_size * world_size
    assert first == epoch_rows(0) and first != second and first != epoch_rows(0, seed=1)
    if world_size == 3:  # the rest is another one each epoch
        assert len({frozenset(set(range(20)) - set(epoch_rows(e))) for e in range(5)}) > 1


def test_ranks_share_one_permutation():
    whole = [row for _, row in RowSampler(20, int, 0, True)]
    parts = [[row for _, row in RowSampler(20, int, 0, True, rank, 2)] for rank in range(2)]
    assert parts == [whole[0::2], whole[1::2]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 64, "frame_interval": 8}, "span 505 raw frames, more than data.max_span=300"),
        ({"crop_size": 300}, "short_side is"),
        ({"short_side": (300, 260)}, "short_side is"),
        ({"test_protocol": "x"}, "protocols are"),
        ({"class_names": ["a", "a"]}, "a more than once"),
        ({"class_names": "nofile.txt"}, "no file nofile.txt"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(InputError, match=words):
        KineticsData(**({"class_names": ["a", "b"]} | options))


def test_too_few_videos_for_a_step(data_root, motion):
    data = KineticsData(root=str(data_root), motion=motion, batch_size=100, max_span=64)
    connector = SimpleNamespace(use_distributed_sampler=False)
    data.trainer = SimpleNamespace(world_size=1, _accelerator_connector=connector)
    with pytest.raises(InputError, match="24 training videos do not fill one step of 100 clips"):
        data.setup("fit")
    connector.use_distributed_sampler = True
    with pytest.raises(InputError, match="use_distributed_sampler has to be false"):
        data.setup("fit")


def test_hyper_parameters_are_plain_and_complete(data_root, motion):
    data = KineticsData(root=str(data_root), motion=motion, videos=["x.mp4"])
    assert data.hparams["class_names"] == list(CLASSES) and "videos" not in data.hparams
    assert data.hparams["motion"]["train_per_class"] == 2
    again = KineticsData(**{k: v for k, v in data.hparams.items() if k != "motion"})
    assert again.class_names == data.class_names

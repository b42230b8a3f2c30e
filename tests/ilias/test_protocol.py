"""ILIAS's protocol against a slow second implementation, on features in the authors' exact layout."""

import json
import pickle
from itertools import pairwise

import numpy as np
import pytest

from pipeline.benchmarks.ilias import hdf5, protocol, results, truth
from pipeline.benchmarks.ilias import ranking as ranking_module
from pipeline.benchmarks.ilias.database import Database, Listed, distractors
from pipeline.benchmarks.ilias.ranking import Answers, asked, rank
from pipeline.errors import BadInput
from pipeline.retrieval import large
from pipeline.vectors import store
from pipeline.vectors.writer import Writer
from tests.ilias import drawn, slow
from tfrecords.benchmarks import ilias as layout


@pytest.fixture
def root(tmp_path):
    drawn.ilias(tmp_path)
    return tmp_path


def opened(root, k, distractors=True, ids=None):
    """(queries, ranking, answers, database) of the drawn set."""
    lists, folder = truth.read(root), root / "features"
    positives = hdf5.Features(hdf5.path_of(folder, hdf5.POSITIVES))
    parts = hdf5.found_distractors(folder) if distractors else []
    if ids is not None:
        parts = [Listed(part, ids) for part in parts]
    database = Database([positives, *parts])
    queries = asked(lists.image_queries, hdf5.Features(hdf5.path_of(folder, hdf5.QUERIES)))
    return queries, rank(queries, database, k)[1], Answers(lists, positives), database


def read_slowly(root, distractors=True, keep=lambda key: True):
    folder = root / "features"
    queries = dict(zip(*drawn.read(folder / "features_image_queries.hdf5"), strict=True))
    names = ["positives", *(f"distractors_{number:05d}" for number in range(3) if distractors)]
    rows = [pair for name in names for pair in zip(*drawn.read(folder / f"features_{name}.hdf5"), strict=True)]
    lines = (root / "image_ids" / "positive_ids.txt").read_text().splitlines()
    return queries, [pair for pair in rows if keep(pair[0])], [line.split(",")[0] for line in lines]


@pytest.mark.parametrize("k", [1000, 40, 7, 1])
@pytest.mark.parametrize("distractors", [True, False])
def test_map_is_that_of_a_slow_second_implementation(root, k, distractors):
    queries, ranking, answers, _ = opened(root, k, distractors)
    scores = answers.scores(queries.ids, ranking, k)
    mean, each = slow.mean_average_precision(*read_slowly(root, distractors), k)
    (name, values), (_, oracle) = scores.items()
    assert name == {1000: "mAP@1k"}.get(k, f"mAP@{k}")
    assert np.allclose(values, [each[query] for query in queries.ids]) and values.mean() == pytest.approx(mean)
    assert 0 < mean < 1 and ((oracle >= values).all() or k < 40)  # of more positives than ranks it is less
    without = [query.startswith(("bold_bimp_000", "it's_005", "#U010daj_010")) for query in queries.ids]
    assert sum(without) == 4 and (values[np.array(without)] == 0).all()  # objects without a positive, in the mean


def test_average_precision_of_ties_is_scikit_learns():
    from sklearn.metrics import average_precision_score

    random = np.random.default_rng(2)
    similarities = np.sort(random.integers(0, 6, (50, 30)) / 8, axis=1)[:, ::-1]
    hits = random.random((50, 30)) < 0.3
    matches = hits.sum(axis=1) + random.integers(0, 9, 50)
    found = protocol.average_precision(hits, similarities, matches, 30)
    for row, value in enumerate(found):
        if hits[row].any():
            share = hits[row].sum() / min(30, matches[row])
            assert value == pytest.approx(average_precision_score(hits[row], similarities[row]) * share)


def test_a_positive_without_a_vector_counts_as_not_found(root):
    path = root / "features" / "features_positives.hdf5"
    ids, vectors = drawn.read(path)
    left_out = ids.index("zippy_zoot_003/pos/P003_01.jpg")
    drawn.features(path, np.delete(ids, left_out).tolist(), np.delete(vectors, left_out, axis=0))
    queries, ranking, answers, _ = opened(root, 1000)
    assert answers.missing == ["zippy_zoot_003/pos/P003_01.jpg"]
    mean, _ = slow.mean_average_precision(*read_slowly(root), 1000)
    assert answers.scores(queries.ids, ranking)["mAP@1k"].mean() == pytest.approx(mean)


def test_a_query_without_a_vector_finds_nothing_and_stays_in_the_mean(root):
    path = root / "features" / "features_image_queries.hdf5"
    ids, vectors = drawn.read(path)
    drawn.features(path, ids[2:], vectors[2:])
    queries, ranking, answers, _ = opened(root, 1000)
    assert queries.missing == sorted(ids[:2]) and len(queries.ids) == len(ids)
    _, each = slow.mean_average_precision(*read_slowly(root), 1000)
    scores = answers.scores(queries.ids, ranking)["mAP@1k"]
    assert scores.sum() == pytest.approx(sum(each.values())) and (scores[-2:] == 0).all()


def test_copies_of_an_image_among_the_distractors_share_its_rank(root):
    folder = root / "features"
    ids, vectors = drawn.read(folder / "features_positives.hdf5")
    copies = [f"yfcc100m_0000.tar/{number:08d}" for number in range(len(ids))]
    drawn.features(folder / "features_distractors_00000.hdf5", copies, vectors)
    queries, ranking, answers, _ = opened(root, 1000)
    mean, _ = slow.mean_average_precision(*read_slowly(root), 1000)
    assert answers.scores(queries.ids, ranking)["mAP@1k"].mean() == pytest.approx(mean)


def test_mini_ilias_takes_the_listed_distractors_alone(root):
    path = root / "image_ids" / "mini_ilias_yfcc100m_ids.txt"
    listed = set(path.read_text().split())
    queries, ranking, answers, database = opened(root, 1000, ids=layout.read_keys(path))

    def keep(key):
        return "/pos/" in key or key.partition("/")[2] in listed

    slowly = read_slowly(root, keep=keep)
    assert database.count == len(slowly[1]) and len(slowly[1]) == len(answers.truth.positives) + len(listed)
    mean, _ = slow.mean_average_precision(*slowly, 1000)
    assert answers.scores(queries.ids, ranking)["mAP@1k"].mean() == pytest.approx(mean)
    ids = database.ids_of(np.arange(database.count))
    assert [ids[row] for row in range(database.count)] == [key for key, _ in slowly[1]]


@pytest.mark.parametrize("name, place, bounds", [("scale", 1, truth.SCALES), ("clutter", 2, truth.CLUTTERS)])
def test_groups_leave_the_objects_other_positives_out(root, name, place, bounds):
    queries, ranking, answers, _ = opened(root, 60)
    found = answers.by_group(queries.ids, ranking, name, bounds, 60)
    lines = [line.split(",") for line in (root / "image_ids" / "positive_ids.txt").read_text().splitlines()]
    asked_for, database, _ = read_slowly(root)
    expected = {}
    for low, high in pairwise(bounds):
        inside = {line[0] for line in lines if low <= float(line[place]) < high}
        scores = []
        for query, vector in asked_for.items():
            own = {line[0] for line in lines if line[0].split("/")[0] == query.split("/")[0]}
            near = [(float(np.dot(vector.astype(float), v.astype(float))), key) for key, v in database]
            ranked = sorted(near, key=lambda pair: -pair[0])[:60]
            if own & inside:
                kept = [pair for pair in ranked if pair[1] not in own - inside]
                scores.append(slow.of_a_query(kept, own & inside, 60))
        if scores:
            expected[f"{low:.3g}-{high:.3g}"] = scores
    assert expected.keys() == found.keys() and len(expected) > 2
    for group, values in found.items():
        assert len(values) == len(expected[group]) and values.mean() == pytest.approx(np.mean(expected[group]))


def test_results_are_what_the_authors_evaluation_reads(root, tmp_path):
    queries, ranking, answers, database = opened(root, 30)
    keys = database.ids_of(np.unique(ranking.rows))
    results.write(tmp_path, queries.ids, ranking.rows, ranking.similarities, keys)
    by_json = json.loads((tmp_path / results.JSON).read_text())
    held = pickle.loads((tmp_path / results.PICKLE).read_bytes())
    assert list(by_json) == queries.ids == held["query_ids"] and set(held) == {
        "query_ids",
        "db_ids",
        "similarities",
        "ranks",
    }
    positives = set(answers.truth.positives)
    aps = []
    for row, (query, found) in enumerate(by_json.items()):
        by_pickle = zip(np.array(held["db_ids"])[held["ranks"][row]], held["similarities"][row].tolist(), strict=True)
        assert list(by_pickle) == list(found.items())
        own = {key for key in positives if key.split("/")[0] == query.split("/")[0]}
        aps.append(slow.of_a_query([(similarity, key) for key, similarity in found.items()], own, 30))
    assert np.allclose(aps, answers.scores(queries.ids, ranking, 30)["mAP@30"])


def test_a_query_without_a_vector_counts_as_nought_in_the_results_too(root, tmp_path):
    path = root / "features" / "features_image_queries.hdf5"
    ids, vectors = drawn.read(path)
    drawn.features(path, ids[1:], vectors[1:])
    queries, ranking, _, database = opened(root, 20)
    results.write(tmp_path, queries.ids, ranking.rows, ranking.similarities, database.ids_of(np.unique(ranking.rows)))
    assert json.loads((tmp_path / results.JSON).read_text())[ids[0]] == {}
    held = pickle.loads((tmp_path / results.PICKLE).read_bytes())
    at = held["query_ids"].index(ids[0])
    assert {held["db_ids"][rank] for rank in held["ranks"][at]} == {results.NO_IMAGE}
    assert held["ranks"].shape == (len(ids), 20) and np.isfinite(np.delete(held["similarities"], at, axis=0)).all()


def test_a_small_database_leaves_no_false_ranks_in_the_results(root, tmp_path):
    queries, ranking, _, database = opened(root, 1000, distractors=False)
    results.write(tmp_path, queries.ids, ranking.rows, ranking.similarities, database.ids_of(np.unique(ranking.rows)))
    held = pickle.loads((tmp_path / results.PICKLE).read_bytes())
    assert held["ranks"].shape == (len(queries.ids), database.count) and np.isfinite(held["similarities"]).all()
    assert all(len(found) == database.count for found in json.loads((tmp_path / results.JSON).read_text()).values())


def test_another_embedders_positives_are_named(root):
    path = root / "features" / "features_positives.hdf5"
    ids, vectors = drawn.read(path)
    drawn.features(path, ids, np.pad(vectors, ((0, 0), (0, 2))))
    with pytest.raises(BadInput, match=r"of one embedder, got vectors of \[3, 5\] numbers"):
        opened(root, 10)


@pytest.mark.parametrize("part", ["image_queries", "positives"])
def test_an_id_that_stands_twice_is_named(root, part):
    path = root / "features" / f"features_{part}.hdf5"
    ids, vectors = drawn.read(path)
    drawn.features(path, [*ids, ids[3]], np.concatenate([vectors, vectors[:1]]))
    with pytest.raises(BadInput, match=f"{ids[3]} has two"):
        opened(root, 10)


def test_features_of_another_set_are_named(root):
    drawn.features(root / "features" / "features_image_queries.hdf5", ["a/query/x.jpg"], drawn.vectors(1, 0))
    with pytest.raises(BadInput, match=r"features of queries such as #U\S+, got such as a/query/x.jpg"):
        opened(root, 10)


def test_the_core_alone_is_ranked_beside_the_whole(root):
    queries, _, answers, database = opened(root, 1000)
    core, whole = rank(queries, database)
    for ranking, with_distractors in ((core, False), (whole, True)):
        mean, _ = slow.mean_average_precision(*read_slowly(root, with_distractors), 1000)
        assert answers.scores(queries.ids, ranking)["mAP@1k"].mean() == pytest.approx(mean)


@pytest.mark.faults("kill")
def test_a_search_goes_on_behind_the_blocks_that_it_has_seen(root, tmp_path, monkeypatch, tried):
    queries, expected, _, database = opened(root, 20)
    kept = tmp_path / "kept.npz"
    monkeypatch.setattr(ranking_module, "SECONDS", 0.0)
    searched = []

    def most_similar(vectors, blocks, k, so_far=None):
        searched.append(so_far is not None)
        if len(searched) == stops_at:
            raise KeyboardInterrupt
        return large.most_similar(vectors, blocks, k, so_far=so_far)

    monkeypatch.setattr(ranking_module, "most_similar", most_similar)
    monkeypatch.setattr(store, "BLOCK_VALUES", 50 * drawn.WIDTH)  # parts of 2, 1 and 3 blocks
    for stops_at, then in ((2, 7), (3, 6), (4, 5), (6, 3), (7, 2)):  # the core, and the blocks that are left
        kept.unlink(missing_ok=True)
        searched.clear()
        with pytest.raises(KeyboardInterrupt):
            rank(queries, database, 20, kept)
        searched.clear()
        stops_at = 0
        _, whole = rank(queries, database, 20, kept)
        assert len(searched) == then
        assert np.array_equal(whole.rows, expected.rows) and np.array_equal(whole.similarities, expected.similarities)
    searched.clear()
    rank(queries, database, 20, kept)
    assert len(searched) == 1  # all are seen
    tried(5)


@pytest.mark.faults("stale results")
def test_a_kept_search_of_other_vectors_is_not_gone_on_with(root, tmp_path, tried):
    queries, _, _, database = opened(root, 20)
    kept = tmp_path / "kept.npz"
    rank(queries, database, 20, kept)
    path = root / "features" / "features_distractors_00001.hdf5"
    ids, vectors = drawn.read(path)
    drawn.features(path, ids, vectors + 9)
    queries, expected, _, database = opened(root, 20)
    _, whole = rank(queries, database, 20, kept)
    assert np.array_equal(whole.rows, expected.rows) and np.array_equal(whole.similarities, expected.similarities)
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(rank(queries, database, 20, kept)[1].rows, expected.rows)
    tried(2)


def test_distractors_of_a_store_of_int8_are_searched_as_stored(root, tmp_path):
    folder = root / "features"
    by_hand = []
    for number in range(3):
        ids, vectors = drawn.read(folder / f"features_distractors_{number:05d}.hdf5")
        writer = Writer(tmp_path / "stores" / str(number), "embedder", drawn.WIDTH, "int8")
        vectors = vectors.astype(np.float32) * 0.37
        for chunk, start in enumerate(range(0, len(ids), 50)):
            here = slice(start, start + 50)
            writer.put(chunk, vectors[here], ((key, "", "", ()) for key in ids[here]))
            scale = np.abs(vectors[here]).max(axis=0) / np.float32(127)
            steps = np.rint(vectors[here] / np.where(scale > 0, scale, 1))
            by_hand += zip(ids[here], (steps * scale).astype(np.float32), strict=True)
        writer.finish()
    lists = truth.read(root)
    positives = hdf5.Features(hdf5.path_of(folder, hdf5.POSITIVES))
    database = Database([positives, *distractors(tmp_path / "stores", "embedder")])
    assert database.stored_as == "float16 and int8" and database.count == positives.count + len(by_hand)
    queries = asked(lists.image_queries, hdf5.Features(hdf5.path_of(folder, hdf5.QUERIES)))
    scores = Answers(lists, positives).scores(queries.ids, rank(queries, database)[1])
    vectors, core, ids = read_slowly(root, distractors=False)
    mean, _ = slow.mean_average_precision(vectors, [*core, *by_hand], ids, 1000)
    assert scores["mAP@1k"].mean() == pytest.approx(mean)
    with pytest.raises(BadInput, match="of the embedder of the queries"):
        distractors(tmp_path / "stores", "another")

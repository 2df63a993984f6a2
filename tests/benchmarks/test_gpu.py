"""`benchmarks/gpu.py`: the search for the best batch goes on where it was, and its table."""

from benchmarks import gpu


def fake(rates, asked):
    def attempt(task, *, limit):
        asked.append((task["batch"], task["remat"]))
        rate = rates.get((task["batch"], task["remat"]))
        if rate is None:
            return {"error": "RESOURCE_EXHAUSTED: out of memory"}
        return {"clips_per_second": rate, "seconds": task["batch"] / rate, "share_of_peak": 0.5, "peak_bytes": 2**30}

    return attempt


def climb(results, rates, monkeypatch, side="ours"):
    asked, saved = [], []
    monkeypatch.setattr(gpu, "attempt", fake(rates, asked))
    gpu.climb(side, "B", results, lambda: saved.append(len(results)), rounds=1, limit=1.0, start=8)
    return asked


def test_the_batch_grows_while_the_rate_does_and_recomputes_only_what_does_not_fit(monkeypatch):
    rates = {(8, "none"): 10.0, (16, "none"): 18.0, (32, "full"): 20.0, (64, "full"): 20.1}
    results = {}
    asked = climb(results, rates, monkeypatch)
    assert asked == [(8, "none"), (16, "none"), (32, "none"), (32, "full"), (64, "none"), (64, "full")]
    assert climb(results, rates, monkeypatch) == []  # all is known
    del results["B/ours/64/full"]
    assert climb(results, rates, monkeypatch) == [(64, "full")]


def test_the_table_shows_each_sides_best(monkeypatch):
    results = {}
    climb(results, {(8, "none"): 10.0, (16, "none"): 30.0}, monkeypatch)
    climb(results, {(8, "none"): 15.0}, monkeypatch, side="torch")
    text = gpu.table(results)
    assert "| B | ours | 16 | 30.0 | 50.0% | 1.0 |  |" in text
    assert "| B | torch | 8 | 15.0 | 50.0% | 1.0 | 2.00× |" in text

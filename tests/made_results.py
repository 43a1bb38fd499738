"""A study's results of rows made by hand, which no folder holds."""

from pathlib import Path

import numpy as np

from sim.study import Results
from sim.study.store import Status
from sim.study.table import column

ENDS = ("completed", "failed", "aborted", "unfinished")
SETTINGS = {
    "profile": "fast-gpu",
    "replicas": 1,
    "router": None,
    "fleet": None,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 2048,
    "num_gpu_blocks": 1000,
    "enable_prefix_caching": True,
    "burstiness": 1.0,
    "concurrent_sessions": None,
    "arrivals": None,
    "tool_time": "recorded",
    "information_error": None,
    "held_out_error_pct": 1.0,
}


def row(point, rate, policy="plas", speedup=1.0, verdict="within noise", **more):
    return {
        "point": point,
        **SETTINGS,
        "load": f"{rate} sessions/s (Poisson)",
        "session_rate": rate,
        "kind": "policy",
        "policy": policy,
        "baseline": "async",
        "saturated": False,
        "extrapolated": False,
        "framework": "all",
        "speedup": speedup,
        "ci95_low": speedup - 0.1,
        "ci95_high": speedup + 0.1,
        "p": 0.01,
        "p_holm": 0.02,
        "verdict": verdict,
        "ceiling": 2.0,
        "share_without_gain": 0.5,
        "baseline_session_latency_s": 10.0,
        "session_latency_s": 10.0 / speedup,
        "workflows": 20,
        "seeds": 3,
        "sessions": 60,
        **more,
    }


class Made(Results):
    """Results that no folder holds."""

    status = Status(planned=12, done=10, files=2)


def made(*rows, policies=("async", "plas")):
    found = Made(Path("made"))
    ends = {f"{name}_sessions": np.array([number]) for name, number in zip(ENDS, (57, 0, 0, 3), strict=True)}
    found.__dict__["cells"] = ends
    found.__dict__["comparisons"] = {name: column(name, [one[name] for one in rows]) for name in (rows or ({},))[0]}
    found.__dict__["manifest"] = {
        "study": {"window": {"warm_up": 0.2}},
        "traces": {
            "workflows": 20,
            "documents_skipped": 2,
            "frameworks": {"AG2": 20},
            "tools_of_unknown_duration": 0,
        },
        "policies": {name: name for name in policies},
        "baseline": "async",
        "stop": None,
    }
    return found

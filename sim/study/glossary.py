"""What the words of a study's page mean: each is explained where it is used, once."""

from __future__ import annotations

from collections.abc import Mapping

DEFINITIONS: Mapping[str, str] = {
    "session": "One workflow as load: from its arrival to the end of its last call or tool.",
    "baseline": "The policy that all others are held against.",
    "session latency": "Seconds from a session's arrival to its end.",
    "speed-up": "Mean session latency under the baseline over that under the policy, of the same sessions: the same"
    " workflows, arrivals and seeds. 1.00x is no difference, below 1 the policy is slower.",
    "95 %": "Interval of the speed-up, over other workflows of the same kind and other arrivals. It does not cover what"
    " the model of the engine lacks.",
    "p": "How likely a difference as large is by chance, corrected for how many questions the study asks (Holm 1979).",
    "verdict": "faster or slower: p is below 0.05 and the difference is larger than the profile's error; else within"
    " noise, or within the profile's error.",
    "ceiling": "The speed-up that no policy can exceed: latency under the baseline over the longest path of calls and"
    " tools, each in its best case. Alone on a server that is work over span; under load the same sessions share a GPU"
    " without end.",
    "no gain": "Share of workflows that get less than 1 % faster.",
    "saturated": "More and more sessions are under way as long as they arrive: more is offered than the server"
    " sustains, and the numbers depend on how long the run is.",
    "extrapolated": "Some of it is beyond what the profile was measured with: longer requests, larger steps, or"
    " hardware on which nobody measured. Such points are hollow, such numbers have a star.",
    "A/A": "The baseline against itself under other arrivals. What that shows is noise.",
    "oracle": "A policy that knows the future, such as answer lengths: a bound that nobody can run.",
    "critical path": "The chain of calls and tools that a session waited for, from its arrival to its end.",
    "held": "Seconds on that chain in which a call was ready and the policy had not sent it.",
    "queue": "Seconds on that chain from when a call was sent until the engine scheduled it.",
    "prefill": "Seconds on that chain from when a call was scheduled until its first token.",
    "decode": "Seconds on that chain from a call's first token to its last, preemptions included.",
    "tool": "Seconds on that chain in which a tool ran, or waited for its turn.",
    "preemptions": "How often a running call lost its KV blocks and had to compute them again, per thousand calls of"
    " whole runs.",
    "profile": "The calibrated step times and settings of an engine.",
    "fitted": "The error on the measurements that the profile was fitted to, in percent of what was measured.",
    "held out": "The error on measurements that the profile was not fitted to, in percent of what was measured.",
    "e2el": "Seconds of a call from when it is sent to its last token; its error is the mean of absolute errors.",
    "mean e2el": "Error of the mean of e2el; too long is positive.",
    "mean ttft": "Error of the mean time from when a call is sent to its first token.",
    "mean tpot": "Error of the mean time per output token after the first: (e2el - ttft) / (tokens - 1).",
    "step": "Mean absolute error of the seconds of engine steps.",
    "in the queue": "Mean absolute error of calls that spent most of their time waiting to be scheduled.",
    "in prefill": "Mean absolute error where most of the time goes to prompt tokens.",
    "in decode": "Mean absolute error where most of the time goes to generating tokens.",
    "in decode, bound by KV": "Mean absolute error where most of the time goes to reading KV blocks.",
    "in mixed steps": "Mean absolute error where prompt tokens and generation share steps.",
    "noise of repeats": "How much the same measurement scatters when it is repeated (coefficient of variation).",
    "of its own": "An error under a name that only the profile's author knows.",
}

#: The profile's accuracies, without ``held_out_`` and ``_pct``.
ACCURACIES: Mapping[str, str] = {
    "e2el_mape": "e2el",
    "e2el_mean_error": "mean e2el",
    "ttft_mean_error": "mean ttft",
    "tpot_mean_error": "mean tpot",
    "step": "step",
    "queue": "in the queue",
    "prefill": "in prefill",
    "decode": "in decode",
    "kv": "in decode, bound by KV",
    "mixed": "in mixed steps",
    "repeat_noise": "noise of repeats",
}

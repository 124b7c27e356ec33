"""What the named figures of ``bench semantic`` have to be."""

from __future__ import annotations

from collections.abc import Mapping

from bench.adapt_bars import Bar

_SIDES = {"full_hidden": "WISV's full-hidden", "mismatch_first": "WISV's mismatch-first"}

BARS: Mapping[str, Bar] = {
    **{
        f"{name}_{figure}": bar
        for name, label in _SIDES.items()
        for figure, bar in {
            "length_gain": Bar(f"{label}: tokens a round over exact, less 1; the worse draft length", least=0.608),
            "rounds_cut": Bar(f"{label}: rounds saved", least=0.373),
            "loss_points_upper95": Bar(f"{label}: points of accuracy lost, upper 95 % end", most=1.0),
        }.items()
    },
    "target_only_length_gain_less_full_hidden": Bar(
        "ours less full-hidden: length gain, the worse draft length", least=-0.05
    ),
    "target_only_loss_points_upper95": Bar("ours: points of accuracy lost, upper 95 % end", most=1.0),
    "target_only_bytes_per_token": Bar("ours: bytes up a drafted token", most=6.0),
    "target_only_latency_cut_vs_full_hidden_20mbit": Bar(
        "ours over full-hidden: time a token saved, 20 Mbit/s, paced", least=0.08
    ),
    "target_only_latency_cut_vs_full_hidden_2mbit": Bar("the same at 2 Mbit/s", least=0.25),
    "target_only_pipelined_latency_cut_vs_exact_sync": Bar("ours, pipelined, over exact sync, paced", least=0.40),
    "semantic_over_edge_rtt30": Bar("the best semantic schedule over the edge alone, 30 ms, paced", least=1.8),
    "semantic_over_edge_rtt60": Bar("the same at 60 ms", least=1.55),
    "semantic_over_edge_rtt100": Bar("the same at 100 ms", least=1.33),
    "semantic_over_edge_rtt300": Bar("the same at 300 ms", least=1.0),
    "ece": Bar("calibration error of our head's risks on fresh labels, ten bins of equal count", most=0.03),
    "ece_labels": Bar("how many labels that is of", least=5000),
    "cap_loss_points_mean": Bar("mean loss of 20 disjoint sets of problems, points; the cap is 1", most=1.0),
    "cap_loss_points_worst_lower95": Bar("the highest lower 95 % end among them", most=1.0),
    "style_shift_loss_points": Bar("loss after 200 audited swaps of a lax head under another style, points", most=1.0),
    "exact_unchanged": Bar("share of exact texts that are the same beside semantic ones, strict numerics", least=1.0),
    "zero_tolerance_equal": Bar("share of texts with a tolerance of 0 that are the exact ones", least=1.0),
}

"""Retrieval's scores where the towers ran: what ``metrics.retrieval`` defines, computed by torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from climp_bench.embed.sets import Floats, Ints
from climp_bench.metrics.retrieval import Standing, StandingOf, matches, rows_at_a_time
from climp_bench.ops.precision import float32_products


def standing_on(device: str) -> StandingOf:
    """``StandingOf`` in float32 on a device of torch's, whose sums are rounded otherwise than numpy's."""

    def standing(
        query_QD: Floats,
        candidate_CD: Floats,
        group_of_query_Q: Ints,
        group_of_candidate_C: Ints,
        budget: int,
    ) -> Standing:
        candidate_DC = torch.from_numpy(candidate_CD).to(device).T
        parts = []
        with torch.inference_mode(), float32_products("highest"):
            rows = rows_at_a_time(query_QD, candidate_CD, budget)
            for some in matches(group_of_query_Q, group_of_candidate_C, rows):
                scores_RC = torch.from_numpy(query_QD[some.queries]).to(device) @ candidate_DC
                row_K, match_K = (torch.from_numpy(a).to(device) for a in (some.row_K, some.candidate_K))
                parts.append(torch.stack(_standing(scores_RC, row_K, match_K)).cpu().numpy())
        return Standing(*np.concatenate(parts, axis=1))

    return standing


def _standing(scores_RC: Tensor, row_K: Tensor, match_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Above, before and tied, (R,) each; ``row_K`` and ``match_K`` say which scores are of matches."""
    r, c = scores_RC.shape
    score_K = scores_RC[row_K, match_K]
    best_R1 = scores_RC.new_full((r,), -torch.inf).scatter_reduce(0, row_K, score_K, "amax")[:, None]
    best_K = score_K == best_R1[row_K, 0]
    first_R = row_K.new_full((r,), c).scatter_reduce(0, row_K, torch.where(best_K, match_K, c), "amin")
    equal_RC = scores_RC == best_R1
    wrong_R = equal_RC.sum(1).index_add(0, row_K, best_K.long(), alpha=-1)
    earlier_RC = torch.arange(c, device=scores_RC.device) < first_R[:, None]
    return (scores_RC > best_R1).sum(1), (equal_RC & earlier_RC).sum(1), wrong_R

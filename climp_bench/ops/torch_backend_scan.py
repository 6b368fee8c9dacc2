"""A piece of a selective scan and its gradient, for the torch backends of ``selective_scan`` and ``ss2d``.

Tensors are time-major: K independent scans, T positions of a piece, B batch, N state, E channels, with E
innermost so that every elementwise kernel runs over contiguous channels. The recurrence is one fused
multiply-add a position over all scans, batch entries, states and channels at once; all else is a whole piece.
"""

from __future__ import annotations

import torch
from torch import Tensor

# States in a piece: on a CPU its temporaries stay in the cache; on a GPU kernels are large, memory modest.
_CPU_STATES = 1 << 18
_GPU_STATES = 1 << 25


def pieces(length: int, states_per_position: int, device: torch.device) -> list[slice]:
    """Cut ``length`` positions into consecutive slices of at most the device's number of states."""
    budget = _CPU_STATES if device.type == "cpu" else _GPU_STATES
    size = max(1, budget // max(1, states_per_position))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


class States:
    """Where the states of a scan live: all of them if the backward pass needs them, else one piece at a time.

    Args:
        like: a tensor of the dtype and device to use.
        length: positions of the whole scan.
        per_position: the shape (K, B, N, E) of the state.
        steps: the slices the scan is done in.
        keep: whether to keep the states of all positions.
    """

    def __init__(
        self,
        like: Tensor,
        length: int,
        per_position: tuple[int, int, int, int],
        steps: list[slice],
        keep: bool,
    ) -> None:
        scans, *rest = per_position
        longest = steps[0].stop
        self.keep = keep
        self.store = like.new_empty(scans, length if keep else longest, *rest)
        self.decay = like.new_empty(scans, longest, *rest)
        self.entry = like.new_zeros(per_position)

    def piece(self, where: slice) -> Tensor:
        """The buffer (K, T, B, N, E) for the states of a slice."""
        return self.store[:, where] if self.keep else self.store[:, : where.stop - where.start]


def scan_piece(
    states: States,
    where: slice,
    u_KTBE: Tensor,
    delta_KTBE: Tensor,
    A_KNE: Tensor,
    B_KTBN: Tensor,
    C_KTBN: Tensor,
) -> Tensor:
    """Advance the scan over one slice; returns C h, (K, T, B, E). The last state goes to ``states.entry``."""
    h = states.piece(where)
    decay = decays(delta_KTBE, A_KNE, out=states.decay[:, : h.shape[1]])
    torch.mul((delta_KTBE * u_KTBE).unsqueeze(-2), B_KTBN.unsqueeze(-1), out=h)
    previous = states.entry
    for h_t, decay_t in zip(h.unbind(1), decay.unbind(1), strict=True):
        previous = h_t.addcmul_(decay_t, previous)
    states.entry.copy_(previous)
    return over_state(h, C_KTBN)


def scan_piece_backward(
    grad_KTBE: Tensor,
    u_KTBE: Tensor,
    delta_KTBE: Tensor,
    A_KNE: Tensor,
    B_KTBN: Tensor,
    C_KTBN: Tensor,
    h: Tensor,
    before: Tensor | None,
    carry: Tensor,
    scratch: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of one slice, given those of everything after it.

    Args:
        grad_KTBE: gradient of C h.
        u_KTBE, delta_KTBE, A_KNE, B_KTBN, C_KTBN: as given to ``scan_piece``.
        h: the slice's states (K, T, B, N, E).
        before: the state (K, B, N, E) ahead of the slice; none at the start, where it is zero.
        carry: gradient (K, B, N, E) that the next slice hands back; replaced by the one for the slice before.
        scratch: buffers (2, K, >= T, B, N, E).

    Returns:
        gradients of u_KTBE, delta_KTBE, A_KNE, B_KTBN and C_KTBN.
    """
    decay, g = (buffer[:, : h.shape[1]] for buffer in scratch.unbind(0))
    decays(delta_KTBE, A_KNE, out=decay)
    torch.mul(grad_KTBE.unsqueeze(-2), C_KTBN.unsqueeze(-1), out=g)
    g_steps, decay_steps = g.unbind(1), decay.unbind(1)
    following = g_steps[-1].add_(carry)
    for t in range(len(g_steps) - 2, -1, -1):
        following = g_steps[t].addcmul_(decay_steps[t + 1], following)
    torch.mul(decay_steps[0], following, out=carry)

    grad_C = over_channels(h, grad_KTBE)
    grad_B = over_channels(g, delta_KTBE * u_KTBE)
    grad_input = over_state(g, B_KTBN)
    grad_exponent = decay.mul_(g)
    grad_exponent[:, 1:].mul_(h[:, :-1])
    if before is None:
        grad_exponent[:, 0].zero_()
    else:
        grad_exponent[:, 0].mul_(before)
    grad_delta = torch.mul(grad_exponent, A_KNE[:, None, None], out=g).sum(-2).addcmul_(grad_input, u_KTBE)
    grad_A = grad_exponent.mul_(delta_KTBE.unsqueeze(-2)).sum((1, 2))
    return grad_input.mul_(delta_KTBE), grad_delta, grad_A, grad_B, grad_C


def decays(delta_KTBE: Tensor, A_KNE: Tensor, out: Tensor) -> Tensor:
    """``exp(delta A)``, (K, T, B, N, E), written to ``out``."""
    return torch.mul(delta_KTBE.unsqueeze(-2), A_KNE[:, None, None], out=out).exp_()


def over_state(h_KTBNE: Tensor, w_KTBN: Tensor) -> Tensor:
    """Sum over N of ``h w``: (K, T, B, E)."""
    if h_KTBNE.shape[-2] == 1:
        return h_KTBNE.squeeze(-2) * w_KTBN
    return torch.matmul(w_KTBN.unsqueeze(-2), h_KTBNE).squeeze(-2)


def over_channels(h_KTBNE: Tensor, w_KTBE: Tensor) -> Tensor:
    """Sum over E of ``h w``: (K, T, B, N)."""
    if h_KTBNE.shape[-2] == 1:
        return (h_KTBNE.squeeze(-2) * w_KTBE).sum(-1, keepdim=True)
    return torch.matmul(h_KTBNE, w_KTBE.unsqueeze(-1)).squeeze(-1)


def no_autocast(device: torch.device) -> torch.autocast:
    """Inside, mixed precision is off: scans keep the precision of their inputs."""
    return torch.autocast(device.type, enabled=False)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is float64, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def records_gradient(*tensors: Tensor) -> bool:
    """Whether autograd will ask for the gradient of an op on these tensors."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)

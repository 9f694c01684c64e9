"""What a spread of q does to the lines along a trajectory, compiled."""

from __future__ import annotations

from math import sqrt

from simulations.kernels import njit


@njit(cache=True, forceinline=True, error_model="numpy")
def blurred_width(own_width, square, climb, blur):
    """Width of a line of E^2 ``square`` whose q has a covariance, meV.

    ``climb`` (3,) is the derivative of E^2 by q. E^2 is wider by s, and E by s / 2E; by half the
    root of s, where that is more than E itself.
    """
    x, y, z = climb
    along = x * (blur[0, 0] * x + 2.0 * (blur[0, 1] * y + blur[0, 2] * z))
    along += y * (blur[1, 1] * y + 2.0 * blur[1, 2] * z) + z * blur[2, 2] * z
    along = max(along, 0.0)
    wider = 0.25 * along / sqrt(square * square + along + 1e-12)
    return sqrt(own_width * own_width + wider)


@njit(cache=True, error_model="numpy")
def fill_blur(q_blur, k, away, beam, turn, room, out):
    """Covariance (3, 3) of q by mosaic, divergence and pixels, in the frame that ``turn`` leads to.

    ``q_blur`` as ``QBlur``; ``away`` and ``beam`` (3,) are the unit vector of k_f and k_i in the
    crystal's frame, ``k`` is k_f; ``room`` (3, 3) is room to work in.
    """
    mosaic, divergence, width, height, up = q_blur
    q = (beam[0] - k * away[0], beam[1] - k * away[1], beam[2] - k * away[2])
    square = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
    k_i = beam[0] * beam[0] + beam[1] * beam[1] + beam[2] * beam[2]
    lift = up[0] * away[0] + up[1] * away[1] + up[2] * away[2]
    flat = max(1.0 - lift * lift, 1e-12)
    side = (
        (away[1] * up[2] - away[2] * up[1]) / sqrt(flat),
        (away[2] * up[0] - away[0] * up[2]) / sqrt(flat),
        (away[0] * up[1] - away[1] * up[0]) / sqrt(flat),
    )
    a, b, c, e = mosaic * mosaic, divergence * divergence, (k * width) ** 2, (k * height) ** 2
    for i in range(3):
        rise_i = up[i] - lift * away[i]
        for j in range(3):
            rise_j = up[j] - lift * away[j]
            room[i, j] = c * side[i] * side[j] + e * rise_i * rise_j
            room[i, j] -= a * q[i] * q[j] + b * beam[i] * beam[j]
        room[i, i] += a * square + b * k_i
    for i in range(3):
        for j in range(3):
            total = 0.0
            for m in range(3):
                for n in range(3):
                    total += turn[i, m] * room[m, n] * turn[j, n]
            out[i, j] = total


@njit(cache=True, error_model="numpy")
def most_blur_of(q_blur, k, away, beam):
    """Root of the trace of what ``fill_blur`` fills, or a little more; 1/angstrom."""
    mosaic, divergence, width, height, _ = q_blur
    square, k_i = 0.0, 0.0
    for c in range(3):
        square += (beam[c] - k * away[c]) ** 2
        k_i += beam[c] * beam[c]
    total = 2.0 * (mosaic * mosaic * square + divergence * divergence * k_i)
    return sqrt(total + k * k * (width * width + height * height))

"""The few functions of scipy that the posterior needs, typed here because scipy ships no types."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from scipy import linalg, optimize, sparse, special

from simulations.arrays import FloatArray


class SparseMatrix(Protocol):
    """What may be multiplied with from the left."""

    def __matmul__(self, other: FloatArray, /) -> FloatArray:
        """Product with a vector or a matrix."""
        ...


def block_diagonal(blocks: Sequence[FloatArray]) -> SparseMatrix:
    """Sparse matrix of blocks along the diagonal, by rows."""
    matrix = sparse.csr_matrix(sparse.block_diag(blocks, format="csr"))
    return cast(SparseMatrix, matrix)


def solve_positive(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solution x of ``matrix x = right``, the matrix symmetric and positive definite."""
    return cast(FloatArray, linalg.cho_solve(linalg.cho_factor(matrix), right))


def solve_transposed(lower: FloatArray, right: FloatArray) -> FloatArray:
    """Solution x of ``lower^T x = right``, the matrix lower triangular."""
    return cast(FloatArray, linalg.solve_triangular(lower, right, lower=True, trans=1))


def non_negative_least_squares(columns: FloatArray, data: FloatArray) -> tuple[FloatArray, float]:
    """Vector x >= 0 that brings ``columns x`` nearest to ``data``, and how far it stays."""
    return cast("tuple[FloatArray, float]", optimize.nnls(columns, data))


def chi_square_tail(statistic: float, degrees_of_freedom: float) -> float:
    """Probability that chi-square exceeds ``statistic``."""
    return float(special.chdtrc(degrees_of_freedom, statistic))


def normal_tail(z: float) -> float:
    """Probability that a standard normal number exceeds ``z``."""
    return float(special.ndtr(-z))

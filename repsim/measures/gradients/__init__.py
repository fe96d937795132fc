"""CKA and HSIC of torch tensors with exact gradients, streamed in O(n d) memory: alikeness as a training penalty.

Example: a network is trained to differ from another one that stays fixed::

    hidden = network.body(inputs)                        # [n, d], requires grad
    loss = task_loss + 0.1 * repsim.cka(hidden, fixed)   # fixed [n, d'], a tensor or an array without gradient
    loss.backward()

With A and B the centred (debiased: U-centred) kernel matrices of x and y, cka = <A, B> / sqrt(<A, A> <B, B>). Centring
is a self-adjoint projection, so that the derivative by an entry of the kernel matrix of x is the same entry of

    W = (B - <A, B> / <A, A> A) / sqrt(<A, A> <B, B>)

The forward pass streams tiles of both kernel matrices and keeps their row sums and the three inner products; the
backward pass makes every tile again, forms its part of W from the row sums, and pulls it back to the rows. Linear
kernels with no more features than inputs need no tiles: d x d' products serve both passes. Cost of tiles: n^2 (d + d')
flop in either pass, and 2 n^2 d more for the gradient of x, 2 n^2 d' for that of y.

This room imports torch: only who has a tensor comes here.
"""

from .alikeness import alikeness

__all__ = ["alikeness"]

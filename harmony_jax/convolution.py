"""Strided convolutions with kernel 4, stride 2 and SAME padding, down and up, each in two equal forms.

`conv` is what cuDNN and the TPU compiler like. `matmul` writes the same sums as one matrix product over gathered
patches: XLA's CPU backend runs its convolutions (and, worse, their gradients) far below the matrix-product rate, and
loses its fast convolution altogether inside loops. The form is chosen by the platform and never changes the parameters.
"""

import jax
import jax.numpy as jnp


def default_form() -> str:
  """'matmul' on a CPU, 'conv' elsewhere."""
  return 'matmul' if jax.default_backend() == 'cpu' else 'conv'


def downsample(x, kernel, form: str = ''):
  """Cross-correlation y[i, j] = Σ x[2i-1+a, 2j-1+b] kernel[a, b] with zero padding.

  Args:
    x: [B, H, W, C], H and W even.
    kernel: [4, 4, C, D].
    form: 'conv', 'matmul' or '' for the platform's.

  Returns: [B, H/2, W/2, D].
  """
  if (form or default_form()) == 'conv':
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  batch, height, width, channels = x.shape
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  # Space to depth: a 4×4 patch with stride 2 is a 2×2 patch of 2×2 blocks.
  x = x.reshape(batch, height // 2 + 1, 2, width // 2 + 1, 2, channels).swapaxes(2, 3)
  x = x.reshape(batch, height // 2 + 1, width // 2 + 1, 4 * channels)
  patches = _neighbours(x)  # [B, H/2, W/2, 16 C] as (block row, block column, row, column, channel)
  kernel = kernel.reshape(2, 2, 2, 2, channels, -1).swapaxes(1, 2).reshape(16 * channels, -1)
  return product(patches, kernel)


def upsample(x, kernel, form: str = ''):
  """Transposed convolution, kernel not flipped: y = Σ dilated(x)[i+a-2, j+b-2] kernel[a, b].

  Args:
    x: [B, H, W, C].
    kernel: [4, 4, D, C] (output channels before input channels, as the reference implementation stores it).
    form: 'conv', 'matmul' or '' for the platform's.

  Returns: [B, 2H, 2W, D].
  """
  if (form or default_form()) == 'conv':
    return jax.lax.conv_transpose(x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWOI', 'NHWC'))
  batch, height, width, channels = x.shape
  depth = kernel.shape[2]
  # Between the zeros of the dilated input every output sees 2×2 real values: y[2n-1] = x[n-1] k[1] + x[n] k[3] and
  # y[2n] = x[n-1] k[0] + x[n] k[2]. So each 2×2 patch of the input padded by one gives four outputs, the odd ones first.
  kernel = kernel.reshape(2, 2, 2, 2, depth, channels)[:, ::-1, :, ::-1]  # row tap, row phase, column tap, phase, D, C
  kernel = kernel.transpose(0, 2, 5, 1, 3, 4).reshape(4 * channels, 4 * depth)
  y = product(_neighbours(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))), kernel)  # [B, H+1, W+1, 4 D]
  y = y.reshape(batch, height + 1, width + 1, 2, 2, depth).swapaxes(2, 3)
  y = y.reshape(batch, 2 * height + 2, 2 * width + 2, depth)
  return y[:, 1:-1, 1:-1]


def product(x, matrix):
  """x @ matrix with the leading axes of x flattened: [..., C] × [C, D] -> [..., D].

  The same sums, but the gradient of `matrix` is then one plain matrix product; over several leading axes XLA's CPU
  backend runs it in a slow loop (measured: 8.8 against 2.0 ms for [128, 8, 8, 32] × [32, 192]).
  """
  return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _neighbours(x):
  """[B, H, W, C] -> [B, H-1, W-1, 4C]: each position with its right, lower and lower right neighbour."""
  return jnp.concatenate([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], -1)

"""The methods' equations in NumPy, forward and backward, written by hand.

Nothing of `ovsw_jax` is used here. A layer is a function `(params, x, stride,
progress) -> (y, back)` in training, and `back(dy)` returns the gradients of its
parameters, in the structure of `params`, and of `x`. G stands for the gradient
of the loss by the weight that is convolved, scale included.
"""

import numpy as np


def shifts(size, stride, out):
  """Index ranges into the padded input, one for each kernel position."""
  for i in range(size):
    for j in range(size):
      rows = slice(i, i + stride * out[0], stride)
      columns = slice(j, j + stride * out[1], stride)
      yield i, j, (slice(None), rows, columns)


def out_size(x, size, stride):
  return [(n + 2 * (size // 2) - size) // stride + 1 for n in x.shape[1:3]]


def padded(x, size):
  p = size // 2
  return np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))


def conv(x, w, stride):
  """NHWC, HWIO, zero padding that keeps the size at stride 1; and its VJP."""
  size = w.shape[0]
  out, wide = out_size(x, size, stride), padded(x, size)
  y = sum(wide[at] @ w[i, j] for i, j, at in shifts(size, stride, out))

  def back(dy):
    dx, dw, p = np.zeros_like(wide), np.zeros_like(w), size // 2
    for i, j, at in shifts(size, stride, out):
      dx[at] += dy @ w[i, j].T
      dw[i, j] = np.einsum("nhwc,nhwd->cd", wide[at], dy)
    return dx[:, p : p + x.shape[1], p : p + x.shape[2]], dw

  return y, back


def sign(x):
  return np.where(x >= 0, 1.0, -1.0)


def approx(x):
  return np.maximum(0, 2 - 2 * np.abs(x))


def annealed(progress, t_min, t_max=10.0):
  t = 10 ** (np.log10(t_min) + (np.log10(t_max) - np.log10(t_min)) * progress)
  return max(1 / t, 1), t


def ede(x, k, t):
  return k * t * (1 - np.tanh(t * x) ** 2)


def triangle(x, k, t):
  return np.maximum(0, k * (2 * np.sqrt(t**2 / 2) - np.abs(t**2 * x)))


FILTER, SAMPLE = (0, 1, 2), (1, 2, 3)


def standardized(w, axes, eps=0.0):
  """(w - mean) / sqrt(var + eps), unbiased, over `axes`; and its VJP."""
  n = np.prod([w.shape[a] for a in axes])
  centred = w - w.mean(axes, keepdims=True)
  root = np.sqrt((centred**2).sum(axes, keepdims=True) / (n - 1) + eps)
  z = centred / root

  def back(dz):
    inner = (dz * centred).sum(axes, keepdims=True) / ((n - 1) * root**2)
    g = (dz - centred * inner) / root
    return g - g.mean(axes, keepdims=True)

  return z, back


def alpha_sign(w):
  return np.abs(w).mean(FILTER) * sign(w)


def xnor_net(params, x, stride, progress, input_scale=False, sgd=True):
  w = params["latent"]
  n, ci = np.prod(w.shape[:3]), w.shape[2]
  y, product = conv(sign(x), alpha_sign(w), stride)
  k = np.ones_like(y[..., :1])
  if input_scale:
    box = np.full((*w.shape[:2], 1, 1), 1 / (w.shape[0] * w.shape[1]))
    k, boxed = conv(np.abs(x).mean(-1, keepdims=True), box, stride)

  def back(dy):
    dx, G = product(dy * k)
    dx = dx * (np.abs(x) < 1)
    if input_scale:
      dk = boxed((dy * y).sum(-1, keepdims=True))[0]
      dx = dx + dk * np.sign(x) / x.shape[-1]
    rule = 1 / n + np.abs(w).mean(FILTER) * (np.abs(w) < 1)
    return {"latent": G * rule * (1 - 1 / ci) * (n if sgd else 1)}, dx

  return y * k, back


def bireal(params, x, stride, progress):
  w = params["latent"]
  y, product = conv(sign(x), alpha_sign(w), stride)

  def back(dy):
    dx, G = product(dy)
    return {"latent": G * (np.abs(w) <= 1)}, dx * approx(x)

  return y, back


def reactnet(params, x, stride, progress):
  shift = params["activation_quantizer"]["shift"]
  y, inner = bireal(params, x + shift, stride, progress)

  def back(dy):
    grads, dx = inner(dy)
    return {
      **grads,
      "activation_quantizer": {"shift": dx.sum((0, 1, 2))},
    }, dx

  return y, back


def irnet(params, x, stride, progress, t_min=1e-3):
  k, t = annealed(progress, t_min)
  z, standard = standardized(params["latent"], FILTER)
  s = 2 ** np.round(np.log2(np.abs(z).mean(FILTER)))
  y, product = conv(sign(x), sign(z) * s, stride)

  def back(dy):
    dx, G = product(dy)
    return {"latent": standard(G * s * ede(z, k, t))}, dx * ede(x, k, t)

  return y, back


def tau(progress):
  a = (0.99 - 0.85) / (np.e - 1)
  return a * np.e**progress + 0.85 - a


def recu(params, x, stride, progress):
  z, standard = standardized(params["latent"], FILTER, 1e-5)
  w1 = 2 * np.sqrt(2) * z
  q = -np.abs(w1).mean() * np.log(2 - 2 * tau(progress))
  m, n = x.mean(SAMPLE, keepdims=True), np.prod(x.shape[1:])
  root = np.sqrt(((x - m) ** 2).sum(SAMPLE, keepdims=True) / (n - 1) + 1e-5)
  a0, alpha = x / root, params["output_scale"]
  y, product = conv(sign(a0), sign(np.clip(w1, -q, q)), stride)

  def back(dy):
    da, G = product(dy * alpha)
    da = da * approx(a0)
    inner = (da * x).sum(SAMPLE, keepdims=True) / ((n - 1) * root**2)
    return {
      "latent": standard(2 * np.sqrt(2) * G * (np.abs(w1) <= q)),
      "output_scale": (dy * y).sum((0, 1, 2)),
    }, (da - (x - m) * inner) / root

  return y * alpha, back


def rotated(z, r1, r2):
  """R1' X R2 of each filter, X of shape (a, b) in the order (in, h, w)."""
  out = np.empty_like(z)
  for o in range(z.shape[-1]):
    matrix = z[..., o].transpose(2, 0, 1).reshape(len(r1), len(r2))
    turned = (r1.T @ matrix @ r2).reshape(z.shape[2], *z.shape[:2])
    out[..., o] = turned.transpose(1, 2, 0)
  return out


def rbnn(params, x, stride, progress, rotations):
  k, t = annealed(progress, 1e-2)
  angle, alpha = params["weight_quantizer"]["angle"], params["output_scale"]
  z, standard = standardized(params["latent"], FILTER)
  turned = rotated(z, **rotations["weight_quantizer"])
  s = np.abs(np.sin(angle))
  w3 = (1 - s) * z + s * turned
  a2, of_sample = standardized(x, SAMPLE)
  y, product = conv(sign(a2), sign(w3), stride)

  def back(dy):
    da, G = product(dy * alpha)
    g3 = G * triangle(w3, k, t)
    slope = np.cos(angle) * np.sign(np.sin(angle))
    return {
      "latent": standard((1 - s) * g3),
      "output_scale": (dy * y).sum((0, 1, 2)),
      "weight_quantizer": {"angle": (g3 * (turned - z)).sum(FILTER) * slope},
    }, of_sample(da * triangle(a2, 1, max(t, 1)))

  return y * alpha, back


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _sdbnn(params, x, stride, weight_factor, activation_factor):
  w, alpha = params["latent"], params["weight_quantizer"]["alpha"]
  m = 0.01 * w.mean(FILTER)
  shifted = w + sigmoid(alpha) * m
  squeeze = params["activation_quantizer"]["squeeze"]
  excite = params["activation_quantizer"]["excite"]
  p = x.mean((1, 2))
  hidden = np.maximum(0, p @ squeeze)
  beta = sigmoid(hidden @ excite)
  a = x + beta[:, None, None]
  y, product = conv(sign(a), sign(shifted), stride)

  def back(dy):
    da, G = product(dy)
    da, gw = da * activation_factor(a), G * weight_factor(shifted)
    to_excite = da.sum((1, 2)) * beta * (1 - beta)
    to_squeeze = (to_excite @ excite.T) * (hidden > 0)
    dp = to_squeeze @ squeeze.T
    return {
      "latent": gw,
      "weight_quantizer": {
        "alpha": gw.sum(FILTER) * m * sigmoid(alpha) * (1 - sigmoid(alpha))
      },
      "activation_quantizer": {
        "squeeze": p.T @ to_squeeze,
        "excite": hidden.T @ to_excite,
      },
    }, da + dp[:, None, None] / (x.shape[1] * x.shape[2])

  return y, back


def sdbnn(params, x, stride, progress):
  k, t = annealed(progress, 1e-3)
  factor = lambda v: ede(v, k, t)
  return _sdbnn(params, x, stride, factor, factor)


def sdbnn_imagenet(params, x, stride, progress):
  return _sdbnn(params, x, stride, lambda w: np.abs(w) <= 1, approx)


def look_back(w, gamma, u, before, variant="code", thre=0.6):
  """The weights that RBONN's forward pass sees, and what multiplies u."""
  out = len(gamma)
  count = int(out * (1 - thre))
  if variant == "paper":  # `before` is chosen already
    return w + u * before, before
  idx = sorted(range(out), key=lambda o: abs(gamma[o]))
  ind = np.array([1.0 if idx[j] < count else 0.0 for j in range(out)])
  return w - u * ind * before, -ind * before


def paper_choice(w, gamma, thre=0.6):
  """1 where the scale is among the smallest and |w|_1 not among the largest."""
  out = len(gamma)
  count = int(out * (1 - thre))
  norms = [np.abs(w[..., o]).sum() for o in range(out)]
  small = sorted(range(out), key=lambda o: abs(gamma[o]))[:count]
  dense = sorted(range(out), key=lambda o: norms[o])[out - count :]
  return np.array([float(o in small and o not in dense) for o in range(out)])


def rbonn(params, x, stride, progress, before=0.0, variant="code"):
  own = params["weight_quantizer"]
  gamma, u = own["gamma"], own["u"]
  penalty, size = 1e-4, 0.02
  w, times_u = look_back(params["latent"], gamma, u, before, variant)
  s, b = np.abs(gamma), size * sign(w)
  shift = params["activation_quantizer"]["shift"]
  y, product = conv(sign(x + shift), b * s, stride)

  def back(dy):
    dx, G = product(dy)
    dx = dx * approx(x + shift)
    error = w - b * s
    straight = 1.0 if variant == "code" else size
    gw = penalty * error + G * s * straight
    fit = w if variant == "code" else b
    gs = (G * fit).sum(FILTER) - penalty * (error * b).sum(FILTER)
    to_u = (gw * times_u * np.ones_like(gw)).sum(FILTER)
    return {
      "latent": gw,
      "weight_quantizer": {"gamma": gs * np.sign(gamma), "u": to_u},
      "activation_quantizer": {"shift": dx.sum((0, 1, 2))},
    }, dx

  return y, back


# Non-linearities: `(params, x) -> (y, back)`, as above.


def hardtanh(params, x):
  return np.clip(x, -1, 1), lambda dy: ({}, dy * (np.abs(x) < 1))


def identity(params, x):
  return x, lambda dy: ({}, dy)


def prelu(params, x):
  slope = params["slope"]

  def back(dy):
    to_slope = (dy * np.minimum(x, 0)).sum((0, 1, 2))
    return {"slope": to_slope}, dy * np.where(x > 0, 1, slope)

  return np.where(x > 0, x, slope * x), back


def rprelu(params, x):
  y, inner = prelu(params, x + params["input_shift"])

  def back(dy):
    grads, dx = inner(dy)
    return {
      **grads,
      "input_shift": dx.sum((0, 1, 2)),
      "output_shift": dy.sum((0, 1, 2)),
    }, dx

  return y + params["output_shift"], back


def batch_norm(params, x):
  axes, n = (0, 1, 2), x.size // x.shape[-1]
  root = np.sqrt(x.var(axes) + 1e-5)
  z = (x - x.mean(axes)) / root

  def back(dy):
    dz = dy * params["scale"]
    dx = (dz - dz.sum(axes) / n - z * (dz * z).sum(axes) / n) / root
    return {"scale": (dy * z).sum(axes), "bias": dy.sum(axes)}, dx

  return z * params["scale"] + params["bias"], back


def network(params, x, labels, layer, activation):
  """Layer, norm, activation, twice (strides 1 and 2); pooling; classifier.

  `layer(name)` is the layer function of that place. Returns the mean
  cross-entropy and the gradients of all parameters.
  """
  steps, h = [], x
  for place, stride in (("1", 1), ("2", 2)):
    for name, function in (
      (f"conv{place}", lambda p, v, s=stride, n=place: layer(n)(p, v, s)),
      (f"norm{place}", batch_norm),
      (f"activation{place}", activation),
    ):
      h, back = function(params.get(name, {}), h)
      steps.append((name, back))
  pooled = h.mean((1, 2))
  logits = pooled @ params["head"]["kernel"]
  shifted = np.exp(logits - logits.max(-1, keepdims=True))
  probability = shifted / shifted.sum(-1, keepdims=True)
  rows = np.arange(len(labels))
  loss = -np.log(probability[rows, labels]).mean()
  dlogits = probability.copy()
  dlogits[rows, labels] -= 1
  dlogits /= len(labels)
  grads = {"head": {"kernel": pooled.T @ dlogits}}
  dh = np.broadcast_to(
    (dlogits @ params["head"]["kernel"].T)[:, None, None], h.shape
  ) / (h.shape[1] * h.shape[2])
  for name, back in reversed(steps):
    own, dh = back(dh)
    if own:
      grads[name] = own
  return loss, grads

"""The networks in PyTorch, for comparison: our own plain restatement.

OvSW's vanilla layer (per-example deviation, ApproxSign, identity straight-
through weights, scale computed from the latent weight) and the published
networks around it, written as one would in PyTorch: modules, autograd, in-place
element-wise operations where autograd allows them. Parameters bear the names of
the authors' checkpoints, and logits, loss and gradients are those of their code
(`tests/test_torch_peer.py`).

Xiang et al., `OvSW: Overcoming Silent Weights for Accurate Binary Neural
Networks <https://arxiv.org/abs/2407.05257>`_, ECCV 2024.
"""

import functools

import torch  # pyrefly: ignore[missing-import]
from torch import nn  # pyrefly: ignore[missing-import]
from torch.nn import functional as F  # pyrefly: ignore[missing-import]


class _ApproxSign(torch.autograd.Function):
  @staticmethod
  def forward(ctx, x):
    ctx.save_for_backward(x)
    return torch.sign(x)

  @staticmethod
  def backward(ctx, gradient):
    (x,) = ctx.saved_tensors
    return gradient * (2 - 2 * x.abs()).clamp_(min=0)


class _IdentitySign(torch.autograd.Function):
  @staticmethod
  def forward(ctx, weight):
    return torch.sign(weight)

  @staticmethod
  def backward(ctx, gradient):
    return gradient


class BinaryConv2d(nn.Conv2d):
  """Binary activations and weights; the scale has no gradient."""

  def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1):
    super().__init__(
      inputs, outputs, size, stride, padding=size // 2, bias=False
    )
    nn.init.kaiming_normal_(self.weight)

  def forward(self, x):
    if self.training:
      variance = x.detach().var(dim=(1, 2, 3), keepdim=True)
      x = x / torch.sqrt(variance + 1e-5)
    with torch.no_grad():
      centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
      deviation = torch.sqrt(centred.var(dim=(1, 2, 3)) + 1e-5)
      scale = centred.abs().mean(dim=(1, 2, 3)) / deviation
    bits = _IdentitySign.apply(self.weight)
    y = F.conv2d(_ApproxSign.apply(x), bits, None, self.stride, self.padding)
    return y * scale.reshape(1, -1, 1, 1)


class BasicBlock(nn.Module):
  """Two convolutions, one shortcut around both; a binary 1x1 shortcut."""

  def __init__(self, inputs: int, outputs: int, stride: int):
    super().__init__()
    self.conv1 = BinaryConv2d(inputs, outputs, 3, stride)
    self.bn1 = nn.BatchNorm2d(outputs)
    self.conv2 = BinaryConv2d(outputs, outputs, 3)
    self.bn2 = nn.BatchNorm2d(outputs)
    self.shortcut = None
    if stride != 1 or inputs != outputs:
      self.shortcut = nn.Sequential(
        BinaryConv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
      )

  def forward(self, x):
    shortcut = x if self.shortcut is None else self.shortcut(x)
    y = F.hardtanh_(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    return F.hardtanh_(y.add_(shortcut))


class BiRealBlock(nn.Module):
  """Two convolutions, a shortcut around each."""

  def __init__(self, inputs: int, outputs: int, stride: int, *, real: bool):
    super().__init__()
    self.conv1 = BinaryConv2d(inputs, outputs, 3, stride)
    self.bn1 = nn.BatchNorm2d(outputs)
    self.conv2 = BinaryConv2d(outputs, outputs, 3)
    self.bn2 = nn.BatchNorm2d(outputs)
    self.changes = stride != 1 or inputs != outputs
    self.extra = outputs // 4
    self.downsample = None
    if real and self.changes:
      self.downsample = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride, bias=False),
        nn.BatchNorm2d(outputs),
      )

  def _shortcut(self, x):
    if self.downsample is not None:
      return self.downsample(x)
    if not self.changes:
      return x
    return F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, self.extra, self.extra))

  def forward(self, x):
    y = self.bn1(self.conv1(x))
    y = F.hardtanh_(y.add_(self._shortcut(x)))
    return F.hardtanh_(self.bn2(self.conv2(y)).add_(y))


class ResNet(nn.Module):
  """Stem, stages of blocks, global average pooling, batch norm, classifier."""

  def __init__(self, stem, block, sizes, widths, head_norm, head_name, head):
    super().__init__()
    inputs = widths[0]
    size, self.imagenet = (7, True) if stem == "imagenet" else (3, False)
    self.conv1 = nn.Conv2d(
      3, inputs, size, 2 if self.imagenet else 1, size // 2, bias=False
    )
    self.bn1 = nn.BatchNorm2d(inputs)
    for stage, (blocks, width) in enumerate(
      zip(sizes, widths, strict=True), start=1
    ):
      parts = []
      for index in range(blocks):
        stride = 2 if stage > 1 and index == 0 else 1
        parts.append(block(inputs, width, stride))
        inputs = width
      setattr(self, f"layer{stage}", nn.Sequential(*parts))
    self.stages = len(sizes)
    self.bn2 = head_norm(inputs)
    setattr(self, head_name, head(inputs))
    self.head_name = head_name
    self.stem_activation = block is not BasicBlock

  def forward(self, x):
    x = self.bn1(self.conv1(x))
    if self.stem_activation:
      x = F.hardtanh_(x)
    if self.imagenet:
      x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage in range(1, self.stages + 1):
      x = getattr(self, f"layer{stage}")(x)
    x = F.adaptive_avg_pool2d(x, 1)
    if isinstance(self.bn2, nn.BatchNorm1d):
      x = x.flatten(1)
    return getattr(self, self.head_name)(self.bn2(x)).flatten(1)


class VGGSmall(nn.Module):
  """Six convolutions, five of them binary; pooling precedes the norms."""

  widths = (128, 128, 256, 256, 512, 512)

  def __init__(self, classes: int, image_size: int):
    super().__init__()
    inputs = 3
    for index, width in enumerate(self.widths):
      if index:
        conv = BinaryConv2d(inputs, width, 3)
      else:
        conv = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
      nn.init.kaiming_normal_(conv.weight, mode="fan_out")
      setattr(self, f"conv{index}", conv)
      setattr(self, f"bn{index}", nn.BatchNorm2d(width))
      inputs = width
    self.nonlinear5 = nn.PReLU(inputs)
    self.fc = nn.Linear(inputs * (image_size // 8) ** 2, classes)
    nn.init.normal_(self.fc.weight, std=0.01)
    nn.init.zeros_(self.fc.bias)

  def forward(self, x):
    for index in range(len(self.widths)):
      x = getattr(self, f"conv{index}")(x)
      if index % 2:
        x = F.max_pool2d(x, 2)
      x = getattr(self, f"bn{index}")(x)
      x = self.nonlinear5(x) if index == 5 else F.hardtanh_(x)
    return self.fc(x.flatten(1))


def _cifar_resnet(sizes, widths, classes: int) -> ResNet:
  head = lambda inputs: nn.Conv2d(inputs, classes, 1)
  return ResNet("cifar", BasicBlock, sizes, widths, nn.BatchNorm2d, "fc", head)


def _cifar_resnet20(sizes, widths, classes: int) -> ResNet:
  block = functools.partial(BiRealBlock, real=False)
  head = lambda inputs: nn.Linear(inputs, classes)
  return ResNet("cifar", block, sizes, widths, nn.BatchNorm1d, "linear", head)


def _imagenet_resnet(sizes, widths, classes: int) -> ResNet:
  block = functools.partial(BiRealBlock, real=True)
  head = lambda inputs: nn.Linear(inputs, classes)
  network = ResNet("imagenet", block, sizes, widths, nn.BatchNorm1d, "fc", head)
  for module in network.modules():
    if isinstance(module, nn.BatchNorm2d):
      nn.init.constant_(module.weight, 1e-8)
  return network


_WIDE = (64, 128, 256, 512)
_RESNETS = {
  "cifar_resnet18": (_cifar_resnet, (2, 2, 2, 2), _WIDE),
  "cifar_resnet20": (_cifar_resnet20, (3, 3, 3), (16, 32, 64)),
  "cifar_resnet34": (_cifar_resnet, (3, 4, 6, 3), _WIDE),
  "resnet18": (_imagenet_resnet, (2, 2, 2, 2), _WIDE),
  "resnet34": (_imagenet_resnet, (3, 4, 6, 3), _WIDE),
}


def make(
  network: str,
  classes: int,
  image_size: int,
  blocks: tuple[int, ...] | None = None,
) -> nn.Module:
  """A network by our name, in float32, in training mode, on the CPU.

  Args:
    network: name of the network.
    classes: number of logits.
    image_size: side of the images, on which VGG-Small's classifier depends.
    blocks: blocks in each stage of a ResNet, which may have fewer; None: as
      published.

  Raises:
    ValueError: for a name that is not restated here, listing those that are.
  """
  if network == "vgg_small":
    return VGGSmall(classes, image_size)
  if network not in _RESNETS:
    raise ValueError(
      f"no PyTorch peer of {network!r}; there is one of "
      f"{', '.join(_RESNETS)}, vgg_small"
    )
  build, sizes, widths = _RESNETS[network]
  sizes = blocks or sizes
  return build(sizes, widths[: len(sizes)], classes)

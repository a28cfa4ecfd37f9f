"""Small networks built the way torchvision and BERT's authors build theirs."""

from __future__ import annotations

from typing import Any

from bridge import torch

F, nn = torch.nn.functional, torch.nn
Tensor = Any


def conv_bn(ins: int, outs: int, kernel: int = 3, stride: int = 1, groups: int = 1,
            act: Any = None) -> Any:  # fmt: skip
    layers = [nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False),
              nn.BatchNorm2d(outs)]  # fmt: skip
    return nn.Sequential(*layers, *([act] if act else []))


class BasicBlock(nn.Module):
    """ResNet's (He et al., 2016), with the in-place activation and addition of torchvision."""

    def __init__(self, ins: int, outs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs)
        same = stride == 1 and ins == outs
        self.downsample = None if same else nn.Sequential(
            nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += identity
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 7, 2, act=nn.ReLU(inplace=True)),
                                  nn.MaxPool2d(3, 2, 1))  # fmt: skip
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 16, 2))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.layer1(self.stem(x))), 1))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(self.fc2(F.relu(self.fc1(self.avgpool(x))))) * x


class MobileNetV3(nn.Module):
    """Howard et al., 2019: depthwise, squeeze-and-excitation, hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 8, stride=2, act=nn.Hardswish(inplace=True)),
            conv_bn(8, 16, 1, act=nn.ReLU6(inplace=True)),
            conv_bn(16, 16, 5, groups=16, act=nn.Hardswish()),
            SqueezeExcite(16),
            conv_bn(16, 8, 1, act=nn.SiLU()),
        )
        self.classifier = nn.Sequential(
            nn.Linear(8, 16), nn.Hardswish(), nn.Dropout(0.2, inplace=True), nn.Linear(16, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class ShuffleNet(nn.Module):
    """ShuffleNet V2's unit (Ma et al., 2018): split, depthwise, concat, shuffle by view."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(3, 16, act=nn.ReLU(inplace=True))
        self.branch = nn.Sequential(
            conv_bn(8, 8, 1, act=nn.ReLU()),
            conv_bn(8, 8, groups=8),
            conv_bn(8, 8, 1, act=nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        a, b = x.chunk(2, dim=1)
        y = torch.cat((a, self.branch(b)), dim=1)
        n, c, h, w = y.size()
        y = y.view(n, 2, c // 2, h, w)
        return torch.transpose(y, 1, 2).contiguous().view(n, c, h, w)


class UNet(nn.Module):
    """Ronneberger et al., 2015: down, up by interpolation to the skip's size, concat."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn(3, 8, act=nn.LeakyReLU(0.1)), conv_bn(8, 8, act=nn.ELU())
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.last = nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = F.interpolate(b, size=a.shape[-2:], mode="bilinear", align_corners=False)
        d = F.pad(self.up(b), (0, 1, 1, 0))[:, :, : a.shape[2], : a.shape[3]]
        return self.last(torch.cat([a, c, d], 1))


class SelfAttention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.dense, self.norm = nn.Linear(size, size), nn.LayerNorm(size, eps=1e-12)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self.split(f(x)) for f in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = y.transpose(1, 2).reshape(x.size(0), x.size(1), -1)
        return self.norm(self.dropout(self.dense(y)) + x)


class BertLayer(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(size, heads)
        self.intermediate, self.output = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.norm = nn.LayerNorm(size, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.norm(x + self.output(F.gelu(self.intermediate(x))))


class Bert(nn.Module):
    """Devlin et al., 2019: three embeddings, a mask that is expanded and added, a pooled token."""

    def __init__(self, words: int = 60, size: int = 32, heads: int = 4, longest: int = 40) -> None:
        super().__init__()
        self.word = nn.Embedding(words, size, padding_idx=0)
        self.place, self.kind = nn.Embedding(longest, size), nn.Embedding(2, size)
        self.register_buffer("position_ids", torch.arange(longest).expand((1, -1)))
        self.register_buffer("token_type_ids", torch.zeros(1, longest, dtype=torch.long))
        self.norm = nn.LayerNorm(size, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(size, heads) for _ in range(2))
        self.pooler = nn.Linear(size, size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        n, length = input_ids.shape
        kinds = self.token_type_ids[:, :length].expand(n, length)
        x = self.word(input_ids) + self.place(self.position_ids[:, :length]) + self.kind(kinds)
        keep = attention_mask[:, None, None, :].expand(n, 1, length, length).to(x.dtype)
        inverted = 1.0 - keep
        mask = inverted.masked_fill(inverted.to(torch.bool), torch.finfo(x.dtype).min)
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, mask)
        weight = attention_mask.unsqueeze(-1).expand(x.size()).float()
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return {"hidden": x, "pooled": torch.tanh(self.pooler(x[:, 0])),
                "sentence": F.normalize(mean, p=2, dim=1)}  # fmt: skip


class Encoder(nn.Module):
    """PyTorch's own encoder layers, with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor, pad: Tensor) -> Tensor:
        return self.encoder(self.embed(ids), src_key_padding_mask=pad)


class Causal(nn.Module):
    """A decoder's attention by hand: a triangular mask, `where`, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Embedding(50, 16), nn.Linear(16, 48)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight  # tied

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        q, k, v = self.qkv(x).split(16, dim=-1)
        scores = q @ k.transpose(-2, -1) / 4.0
        length = ids.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        scores = torch.where(seen, scores, torch.tensor(float("-inf")))
        return self.head(F.softmax(scores, -1) @ v + x)

"""A character-level GPT on tiny Shakespeare: random crops of one long text, AdamW."""

import argparse

import torch
import writing
from torch import nn
from torch.nn import functional as F

SIZES = {
    "small": {"width": 64, "heads": 4, "layers": 3, "context": 64, "batch": 16, "steps": 600},
    "full": {"width": 384, "heads": 6, "layers": 6, "context": 256, "batch": 64, "steps": 5000},
}


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x):
        batch, time, width = x.shape
        shape = (batch, time, self.heads, width // self.heads)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.attend(x))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(out.transpose(1, 2).reshape(batch, time, width))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))

    def attend(self, x):
        return self.attention(self.norm1(x)).chunk(3, dim=-1)


class GPT(nn.Module):
    def __init__(self, letters, width, heads, layers, context):
        super().__init__()
        self.letters = nn.Embedding(letters, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, letters, bias=False)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.letters(tokens) + self.places(places))))


def crops(text, size, device):
    """`batch` random crops and what follows each of their letters: (batch, context) twice."""
    starts = torch.randint(len(text) - size["context"] - 1, (size["batch"],))
    rows = starts[:, None] + torch.arange(size["context"])
    return text[rows].to(device), text[rows + 1].to(device)


def loss_of(model, tokens, following):
    return F.cross_entropy(model(tokens).flatten(0, 1), following.flatten())


def held_out_loss(model, text, size, device):
    model.eval()
    length = size["context"]
    count = min(len(text) // length - 1, 200)
    rows = torch.arange(count)[:, None] * length + torch.arange(length)
    total = 0.0
    with torch.no_grad():
        for part in rows.split(size["batch"]):
            loss = loss_of(model, text[part].to(device), text[part + 1].to(device))
            total += loss.item() * len(part)
    model.train()
    return total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    size = SIZES[args.size]

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text, source = writing.play(args.data_dir)
    print(f"data: {source}")
    letters = sorted(set(text))
    numbers = {letter: number for number, letter in enumerate(letters)}
    tokens = torch.tensor([numbers[letter] for letter in text])
    border = len(tokens) * 9 // 10
    training, held_out = tokens[:border], tokens[border:]

    parts = (size["width"], size["heads"], size["layers"], size["context"])
    model = GPT(len(letters), *parts).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps = args.steps or size["steps"]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = loss_of(model, *crops(training, size, device))
        loss.backward()
        optimizer.step()
        if step % 200 == 0 or step == steps:
            value = held_out_loss(model, held_out, size, device)
            print(f"step {step}: loss {loss.item():.4f}, held-out loss {value:.4f}")


if __name__ == "__main__":
    main()

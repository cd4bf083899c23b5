"""Sentences of uneven length, padded to the longest of a batch: which of two classes is each?"""

import argparse
import re

import torch
import writing
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

SIZES = {
    "small": {"width": 32, "sentences": 4000, "epochs": 4, "batch": 50},
    "full": {"width": 256, "sentences": 1_000_000, "epochs": 20, "batch": 128},
}
PADDING, UNKNOWN = 0, 1


def words_of(sentence):
    return re.findall(r"[a-z']+|[0-9]+|[^\w\s]", sentence.lower())


class Sentences(Dataset):
    """Splits a sentence into words, and words into numbers, each time it is asked."""

    def __init__(self, rows, numbers):
        self.rows = rows
        self.numbers = numbers

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        sentence, label = self.rows[index]
        words = [self.numbers.get(word, UNKNOWN) for word in words_of(sentence)] or [UNKNOWN]
        return torch.tensor(words), label


def padded(samples):
    tokens = pad_sequence([tokens for tokens, _ in samples], True, PADDING)
    return tokens, torch.tensor([label for _, label in samples])


class Classifier(nn.Module):
    """A convolution over words, and the largest answer of each channel."""

    def __init__(self, words, width):
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=PADDING)
        self.convolution = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width, 2)

    def forward(self, tokens):
        channels = F.relu(self.convolution(self.words(tokens).transpose(1, 2)))
        return self.head(F.dropout(channels.amax(dim=2), 0.3, self.training))


def count_correct(model, loader, device):
    model.eval()
    correct = 0
    with torch.no_grad():
        for tokens, labels in loader:
            predicted = model(tokens.to(device)).argmax(dim=1)
            correct += (predicted == labels.to(device)).sum().item()
    return correct


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args()
    size = SIZES[args.size]

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, source = writing.sentences()
    print(f"data: {source}")
    rows = rows[: size["sentences"]]
    border = len(rows) * 4 // 5
    counts = {}
    for sentence, _ in rows[:border]:
        for word in words_of(sentence):
            counts[word] = counts.get(word, 0) + 1
    kept = sorted(word for word, count in counts.items() if count > 1)
    numbers = {word: number for number, word in enumerate(kept, start=2)}
    train_set, test_set = Sentences(rows[:border], numbers), Sentences(rows[border:], numbers)
    train_loader = DataLoader(train_set, size["batch"], shuffle=True, collate_fn=padded)
    test_loader = DataLoader(test_set, 200, collate_fn=padded)

    model = Classifier(len(numbers) + 2, size["width"]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(args.epochs or size["epochs"]):
        model.train()
        for tokens, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(tokens.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        correct = count_correct(model, test_loader, device)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, test accuracy {correct}/{len(test_set)}")


if __name__ == "__main__":
    main()

"""Which moments of a second of sound make a voice detector hear a voice.

    pip install --no-deps silero-vad==6.2.3    # for its network alone; ONNX Runtime runs it
    python examples/explain_speech.py [sound.wav] [--plot speech.png]

The network is Silero's (MIT licence), in ONNX, which gives no gradient. The sound is a WAV of 16
bits; without one, espeak-ng says "hello" into noise where it is installed, and else a vowel is made
of harmonics. Silence stands in for what is out: ``Regions(0.0, axes=1)``, windows of time.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fwdgrad

RATE, FRAME, CONTEXT = 16_000, 512, 64  # as the network takes them


def network() -> Path:
    """Where the installed package has its network; the package itself is not imported."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        sys.exit("silero-vad is not installed: pip install --no-deps silero-vad==6.2.3")
    return Path(found.submodule_search_locations[0]) / "data" / "silero_vad.onnx"


class Detector:
    """The mean probability of a voice over the frames of sounds (batch, T)."""

    def __init__(self, path: Path) -> None:
        """Loads the network."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(str(path), options)

    def __call__(self, sounds: torch.Tensor) -> torch.Tensor:
        """Probabilities (batch,)."""
        values = sounds.numpy().astype(np.float32)
        state = np.zeros((2, len(values), 128), np.float32)
        before, found = np.zeros((len(values), CONTEXT), np.float32), []
        for start in range(0, values.shape[1] - FRAME + 1, FRAME):
            frame = values[:, start : start + FRAME]
            given = {"input": np.concatenate([before, frame], 1), "state": state}
            given["sr"] = np.array(RATE, np.int64)
            probability, state = self.session.run(None, given)
            before = frame[:, -CONTEXT:]
            found.append(probability[:, 0])
        return torch.from_numpy(np.mean(found, 0))


def sound_of(path: Path | None) -> torch.Tensor:
    """A second and a half of sound (T,): a file's, or a voice in its middle."""
    length = RATE * 3 // 2
    if path is not None:
        return from_wav(path.read_bytes())[:length]
    noise = 0.003 * torch.randn(length, generator=torch.Generator().manual_seed(0))
    speaker = shutil.which("espeak-ng")
    if speaker is not None:
        said = subprocess.run([speaker, "--stdout", "hello"], capture_output=True, check=True)
        voice = from_wav(said.stdout)[: RATE // 2]
    else:
        time = torch.arange(RATE // 2) / RATE
        pitch = 120 + 20 * torch.sin(2 * torch.pi * 3 * time)
        phase = 2 * torch.pi * torch.cumsum(pitch, 0) / RATE
        parts = []
        for k in range(1, 30):  # louder about the formants of an "a"
            shape = sum(np.exp(-(((120 * k - f) / 120) ** 2)) for f in (700, 1200, 2600))
            parts.append((0.02 + float(shape)) / k**0.5 * torch.sin(k * phase))
        voice = torch.stack(parts).sum(0)
        voice = 0.3 * voice / voice.abs().max() * torch.hann_window(len(voice))
    noise[RATE // 2 : RATE // 2 + len(voice)] += voice
    return noise


def from_wav(content: bytes) -> torch.Tensor:
    """A WAV of 16 bits at 16 kHz (T,), or at espeak-ng's 22.05, in -1 .. 1."""
    with wave.open(io.BytesIO(content)) as file:
        rate, frames = file.getframerate(), file.readframes(file.getnframes())
    values = torch.from_numpy(np.frombuffer(frames, np.int16).astype(np.float32) / 2**15)
    size = round(len(values) * RATE / rate)
    return torch.nn.functional.interpolate(values[None, None], size, mode="linear")[0, 0]


def main(arguments: list[str] | None = None) -> None:
    """Explains a sound and prints what each twentieth of a second adds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sound", nargs="?", type=Path, help="a WAV of 16 bits at 16 kHz")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--plot", type=Path, help="where to draw it, a PNG")
    given = parser.parse_args(arguments)
    window = RATE // 20
    method = fwdgrad.Regions(baseline=0.0, cell=window, axes=1)
    found = fwdgrad.explain(
        Detector(network()), sound_of(given.sound), method=method, n_samples=given.samples
    )
    print(f"probability of a voice {found.score:.2f}, reliability {found.reliability:.2f}")
    adds = found.attribution[::window].tolist()
    for i, value in enumerate(adds):
        bar = "#" * round(40 * max(value, 0) / max(*adds, 1e-9))
        print(f"{i * window / RATE:5.2f} s  {value:+.3f}  {bar}")
    if given.plot is not None:
        found.plot().figure.savefig(given.plot)


if __name__ == "__main__":
    main()

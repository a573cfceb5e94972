"""The pause image, made by ourselves: no registry is asked.

A pod's sandbox runs one process that does nothing but hold namespaces. It is a static ELF file of
a few hand-assembled instructions: wait for a signal, forever. Being the first process of its
container it is immune to signals without a handler, except SIGKILL: the kernel drops SIGTERM, so
it is stopped with SIGKILL (the image says so: StopSignal) and dies at once. It has no children:
containers of the pod have process namespaces of their own.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile

IMAGE = "k8slite/pause:1"
LABEL = "io.k8slite.kind"

_ORIGIN = 0x400000  # where the file is mapped
_HEADERS = 64 + 56  # one ELF header, one program header

#: pause() in a loop: the machine's code and its ELF number (e_machine).
_CODE = {
    "amd64": (
        62,
        bytes.fromhex(
            "b822000000"  # mov eax, 34      (SYS_pause)
            "0f05"  #       syscall
            "ebf7"  #       jmp   -9         (to the mov)
        ),
    ),
    "arm64": (
        183,
        # Arm has no pause(2); ppoll(NULL, 0, NULL, NULL, 0) waits just as long.
        struct.pack(
            "<7I",
            0xD2800928,  # mov x8, #73       (SYS_ppoll)
            0xD2800000,  # mov x0, #0
            0xD2800001,  # mov x1, #0
            0xD2800002,  # mov x2, #0
            0xD2800003,  # mov x3, #0
            0xD4000001,  # svc #0
            0x17FFFFFA,  # b   -24           (to the first mov)
        ),
    ),
}

_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture(machine: str) -> str:
    """The kernel's machine name (``x86_64``) → Docker's (``amd64``). Raises ValueError."""
    name = _NAMES.get(machine, machine)
    if name not in _CODE:
        raise ValueError(f"no pause program for machine {machine!r}: known are x86_64 and aarch64")
    return name


def elf(arch: str) -> bytes:
    """The whole program: ELF header, one loadable segment, code."""
    machine, code = _CODE[arch]
    size = _HEADERS + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),  # 64 bits, little-endian, version 1, System V
        2,  # an executable
        machine,
        1,
        _ORIGIN + _HEADERS,  # the first instruction
        64,  # program headers follow this header
        0,  # no sections
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    # Load the file as it is, readable and executable (flags 5).
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _ORIGIN, _ORIGIN, size, size, 0x1000)
    return header + segment + code


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def image_archive(arch: str) -> bytes:
    """An image as ``docker load`` takes it: config, one layer, manifest. Always the same bytes."""
    layer = _tar({"pause": (elf(arch), 0o755)})
    config = json.dumps(
        {
            "architecture": arch,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": ["/pause"],
                "Labels": {LABEL: "pause"},
                "StopSignal": "SIGKILL",
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
            },
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = json.dumps(
        [{"Config": f"{name}.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    ).encode()
    return _tar(
        {
            f"{name}.json": (config, 0o644),
            "layer.tar": (layer, 0o644),
            "manifest.json": (manifest, 0o644),
        }
    )

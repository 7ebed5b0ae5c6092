"""Write a picture with its receipt inside, and the mark that a machine made it.

The receipt is what draws the picture again. It travels as JSON in the XMP packet, beside the
`parameters` text that other programs read (PNG text, EXIF UserComment elsewhere). The mark is
IPTC's DigitalSourceType `trainedAlgorithmicMedia`, in XMP in every format.
"""

import io
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from xml.sax.saxutils import escape

from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict

from worker.ml.inference.spec import GenerationSpec, HiresSpec, LoraWeights

ImageFormat = Literal["png", "webp", "jpeg"]

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
RECEIPT_NAMESPACE = "urn:lorawright:receipt:1"

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_LIBRARIES = ("lorawright", "torch", "diffusers", "transformers")


class LoraReceipt(BaseModel):
    """One LoRA of the set."""

    model_config = ConfigDict(frozen=True)

    id: str
    sha256: str
    weight: float | LoraWeights
    start: float = 0.0
    end: float = 1.0


class Receipt(BaseModel):
    """All that makes one picture again; no path or address of any machine."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    scheduler: str
    seed: int
    base_model: str
    base_model_revision: str | None
    base_model_sha256: str
    loras: tuple[LoraReceipt, ...]
    # Of the picture it started from; None when it started from noise.
    init_image_sha256: str | None
    mask_image_sha256: str | None = None
    strength: float | None
    hires: HiresSpec | None = None
    # "cpu" or "cuda", and the number format: other devices round otherwise.
    device: str
    dtype: str
    versions: dict[str, str]


def make_receipt(
    spec: GenerationSpec,
    seed: int,
    *,
    base_model_sha256: str,
    device: str,
    dtype: str,
    init_image_sha256: str | None = None,
    mask_image_sha256: str | None = None,
) -> Receipt:
    """The receipt of one image of a spec.

    Args:
        seed: the image's own, one of the spec's.
        base_model_sha256: see `PipelineHandle.base_sha256`.
        device, dtype: what drew it, e.g. "cuda" and "bfloat16".
        init_image_sha256, mask_image_sha256: of their files, where the spec has them.
    """
    return Receipt(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        guidance_rescale=spec.guidance_rescale,
        scheduler=spec.scheduler,
        seed=seed,
        base_model=spec.base_model.id,
        base_model_revision=spec.base_model.revision,
        base_model_sha256=base_model_sha256,
        loras=tuple(LoraReceipt(**lora.model_dump(exclude={"path"})) for lora in spec.loras),
        init_image_sha256=init_image_sha256,
        mask_image_sha256=mask_image_sha256,
        strength=None if spec.init_image is None else spec.strength,
        hires=spec.hires,
        device=device,
        dtype=dtype,
        versions={name: _version(name) for name in _LIBRARIES},
    )


def encode_image(image: Image.Image, image_format: ImageFormat, receipt: Receipt) -> bytes:
    """The picture as a file, with its parameters, its receipt and the mark in it.

    Raises:
        ValueError: JPEG has no room for the receipt (64 KiB).
    """
    xmp = _xmp(receipt)
    buffer = io.BytesIO()
    if image_format == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
        chunks.add_itxt("parameters", parameters_text(receipt))
        chunks.add_itxt("lorawright", receipt.model_dump_json())
        image.save(buffer, "png", pnginfo=chunks)
        return buffer.getvalue()
    exif = Image.Exif()
    comment = parameters_text(receipt).encode("utf-16-be", errors="replace")
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + comment
    if image_format == "webp":
        image.save(buffer, "webp", quality=92, exif=exif.tobytes(), xmp=xmp)
    else:
        image.convert("RGB").save(
            buffer, "jpeg", quality=95, subsampling=0, exif=exif.tobytes(), xmp=xmp
        )
    return buffer.getvalue()


def parameters_text(receipt: Receipt) -> str:
    """The block of text that image browsers and web UIs read a picture's parameters from."""
    fields: dict[str, object] = {
        "Steps": receipt.steps,
        "Sampler": receipt.scheduler,
        "CFG scale": receipt.guidance_scale,
        "Seed": receipt.seed,
        "Size": f"{receipt.width}x{receipt.height}",
        "Model": receipt.base_model,
        "Model hash": receipt.base_model_sha256[:10],
    }
    if receipt.strength is not None:
        fields["Denoising strength"] = receipt.strength
    if receipt.hires is not None:
        fields["Hires upscale"] = receipt.hires.scale
        fields["Hires upscaler"] = receipt.hires.upscaler
        fields.setdefault("Denoising strength", receipt.hires.strength)
    if receipt.loras:
        named = ", ".join(
            f"{lora.id}: {lora.sha256[:10]} @ {_words(lora.weight)}" for lora in receipt.loras
        )
        fields["Lora hashes"] = f'"{named}"'
    fields["Version"] = f"lorawright {receipt.versions['lorawright']}"
    lines: Sequence[str] = [
        receipt.prompt,
        *([f"Negative prompt: {receipt.negative_prompt}"] if receipt.negative_prompt else []),
        ", ".join(f"{name}: {value}" for name, value in fields.items()),
    ]
    return "\n".join(lines)


def _words(weight: float | LoraWeights) -> str:
    if isinstance(weight, float):
        return f"{weight:g}"
    parts = {"unet": weight.unet, "text_encoder": weight.text_encoder, **weight.blocks}
    return " ".join(f"{part}={value:g}" for part, value in parts.items())


def _version(name: str) -> str:
    """The installed version; "unknown" where a package runs from its source folder."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _xmp(receipt: Receipt) -> bytes:
    description = _xml_text(receipt.prompt)
    # JSON with its control characters escaped is plain text to XML.
    packed = _xml_text(receipt.model_dump_json())
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:lorawright="{RECEIPT_NAMESPACE}">
   <xmp:CreatorTool>Lorawright {_xml_text(receipt.versions["lorawright"])}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>
   <dc:description>
    <rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt>
   </dc:description>
   <lorawright:receipt>{packed}</lorawright:receipt>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode("utf-8", errors="replace")


def _xml_text(text: str) -> str:
    """Escaped for XML 1.0, which most control characters may not enter even escaped."""
    allowed = "".join(
        sign if sign in "\t\n\r" or (sign >= " " and sign not in "\ufffe\uffff") else "\ufffd"
        for sign in text
    )
    return escape(allowed)

"""What a LoRA file says of itself, in the words that other programs look for."""

import json
from collections import Counter
from typing import Any

from app.trainings.arithmetic import StepPlan
from app.trainings.params import TrainingParams
from worker.ml.training.spec import TrainingSpec

_SDXL = "stable-diffusion-xl-v1-base"
_ALGORITHMS = {"dora": "lora", "loha": "loha", "lokr": "lokr"}


def file_metadata(
    spec: TrainingSpec, *, prediction: str, step: int, epoch: int, steps: StepPlan
) -> dict[str, str]:
    """`ss_*` as sd-scripts writes them, `modelspec.*` of version 1.0.1, and the spec's own.

    No time of day: a resumed run writes the same bytes as one that was not.
    """
    params = spec.params
    values = {
        **_of_run(spec, step, epoch, steps),
        **_of_network(params),
        **_of_data(spec, steps),
        **_of_objective(params),
    }
    found = {f"ss_{name}": _text(value) for name, value in values.items()}
    return {**found, **_modelspec(spec, prediction), **spec.metadata}


def _of_run(spec: TrainingSpec, step: int, epoch: int, steps: StepPlan) -> dict[str, Any]:
    params = spec.params
    sdxl = spec.base_model.architecture == "sdxl"
    return {
        "v2": False,
        "base_model_version": "sdxl_base_v1-0" if sdxl else spec.base_model.architecture,
        "sd_model_name": spec.base_model.id,
        "output_name": spec.name,
        "steps": step,
        "epoch": epoch,
        "num_epochs": params.epochs,
        "num_batches_per_epoch": steps.steps_per_epoch * params.gradient_accumulation,
        "max_train_steps": steps.total_steps,
        "gradient_accumulation_steps": params.gradient_accumulation,
        "gradient_checkpointing": params.gradient_checkpointing,
        "mixed_precision": params.mixed_precision,
        "seed": spec.seed,
        "learning_rate": params.learning_rate,
        "unet_lr": params.learning_rate,
        "text_encoder_lr": (
            params.text_encoder_learning_rate if params.train_text_encoder else None
        ),
        "lr_scheduler": params.lr_scheduler,
        "lr_warmup_steps": params.lr_warmup_steps,
        "optimizer": params.optimizer,
        "max_grad_norm": params.max_grad_norm,
        "scale_weight_norms": params.max_norm,
    }


def _of_network(params: TrainingParams) -> dict[str, Any]:
    arguments: dict[str, str] = {"target": params.target}
    if params.target == "conv":
        conv_rank = params.conv_rank or params.rank
        arguments["conv_dim"] = str(conv_rank)
        default = params.alpha if params.conv_rank is None else float(conv_rank)
        arguments["conv_alpha"] = _text(params.conv_alpha or default)
    if params.variant in _ALGORITHMS:
        arguments["algo"] = _ALGORITHMS[params.variant]
    if params.variant == "dora":
        arguments["dora_wd"] = "True"
    if params.variant == "lokr":
        arguments["factor"] = str(params.lokr_factor)
    if params.rank_stabilized:
        arguments["rs_lora"] = "True"
    return {
        # Other kinds than the plain one are known by the names of LyCORIS.
        "network_module": "lycoris.kohya" if "algo" in arguments else "networks.lora",
        "network_dim": params.rank,
        "network_alpha": params.alpha,
        "network_dropout": params.neuron_dropout or None,
        "network_args": json.dumps(arguments),
    }


def _of_data(spec: TrainingSpec, steps: StepPlan) -> dict[str, Any]:
    params = spec.params
    subjects = [image for image in spec.images if not image.regularization]
    classes = len(spec.images) - len(subjects)
    tags = dict(_tags(spec))
    passes = sum(image.repeats or params.num_repeats for image in subjects)
    buckets = {
        str(number): {"resolution": list(size), "count": len(numbers)}
        for number, (size, numbers) in enumerate(steps.buckets(0).items())
    }
    dataset = {
        "is_dreambooth": True,
        "batch_size_per_device": params.batch_size,
        "num_train_images": passes,
        "num_reg_images": classes,
        "resolution": [params.resolution, params.resolution],
        "enable_bucket": True,
        "bucket_no_upscale": params.no_upscale,
        "bucket_info": {"buckets": buckets},
        "shuffle_caption": params.shuffle_caption,
        "keep_tokens": params.keep_tokens,
        "flip_aug": params.flip_augment,
        "random_crop": params.random_crop,
        "tag_frequency": {spec.name: tags},
    }
    directory = {"n_repeats": params.num_repeats, "img_count": len(subjects)}
    return {
        "datasets": json.dumps([dataset]),
        "tag_frequency": json.dumps({spec.name: tags}),
        "dataset_dirs": json.dumps({spec.name: directory}),
        "num_train_images": passes,
        "num_reg_images": classes,
        "resolution": f"({params.resolution}, {params.resolution})",
        "batch_size_per_device": params.batch_size,
        "caption_dropout_rate": params.caption_dropout_rate,
        "caption_dropout_every_n_epochs": params.caption_dropout_every_n_epochs,
        "caption_tag_dropout_rate": params.tag_dropout_rate,
        "cache_latents": True,
    }


def _of_objective(params: TrainingParams) -> dict[str, Any]:
    prior = params.prior_preservation
    return {
        "loss_type": params.loss,
        "huber_c": params.huber_delta if params.loss != "l2" else None,
        "min_snr_gamma": None if params.debiased_estimation else params.min_snr_gamma,
        "debiased_estimation": params.debiased_estimation,
        "zero_terminal_snr": params.zero_terminal_snr,
        "noise_offset": params.noise_offset or None,
        "multires_noise_iterations": params.multires_noise_iterations or None,
        "multires_noise_discount": params.multires_noise_discount,
        "ip_noise_gamma": params.input_perturbation or None,
        "prior_loss_weight": prior.weight if prior else 1.0,
    }


def _modelspec(spec: TrainingSpec, prediction: str) -> dict[str, str]:
    sdxl = spec.base_model.architecture == "sdxl"
    architecture = _SDXL if sdxl else spec.base_model.architecture
    side = spec.params.resolution
    found = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "v" if prediction == "v_prediction" else prediction,
        "modelspec.title": spec.name,
        "modelspec.tags": ", ".join(tag for tag, _ in _tags(spec).most_common(10)),
    }
    if spec.trigger_word:
        found["modelspec.trigger_phrase"] = spec.trigger_word
    return found


def _tags(spec: TrainingSpec) -> Counter[str]:
    return Counter(
        tag.strip()
        for image in spec.images
        if not image.regularization
        for tag in image.caption.split(",")
        if tag.strip()
    )


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

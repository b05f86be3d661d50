"""What torch and diffusers make of a folder and of some inputs; runs in a Python that has both.

python in_torch.py FOLDER inputs.npz outputs.npz [--file FILE | --lora FILE] [--strength S | --control FOLDER]
"""

import argparse
import inspect
import json
from pathlib import Path

import numpy as np


def load(arguments):
    import diffusers

    if "UniDiffuserPipeline" in (Path(arguments.folder) / "model_index.json").read_text():
        return load_unidiffuser(arguments.folder)
    index = json.loads((Path(arguments.folder) / "model_index.json").read_text())
    absent = {part: None for part, value in index.items() if value == [None, None]}
    if index["_class_name"].startswith("IF"):
        pipeline = load_pixels(arguments.folder, absent)
    else:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(arguments.folder, **{**absent, **PARTS_LEFT_OUT})
    if arguments.file:
        # T5 is from the folder: diffusers 0.42.1 can't read it from one file by transformers 5
        parts = {part: getattr(pipeline, part) for part in ("text_encoder_3", "tokenizer_3") if hasattr(pipeline, part)}
        pipeline = type(pipeline).from_single_file(
            arguments.file, config=arguments.folder, local_files_only=True, **parts
        )
    if arguments.lora:
        pipeline.load_lora_weights(arguments.lora)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


PARTS_LEFT_OUT = {"safety_checker": None, "requires_safety_checker": False}


def load_pixels(folder, absent):
    """A model of pixels, drawn with DDIM, since its own solver draws noise."""
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **{**absent, **PARTS_LEFT_OUT, "watermarker": None})
    settings = {"clip_sample": False, "variance_type": "fixed_small"}
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, **settings)
    pipeline.scheduler.register_to_config(variance_type="fixed_small")  # which its pipeline asks for
    return pipeline


def of_pixels(pipeline, inputs, count):
    """The noise of a model of pixels, and the small picture of one that enlarges."""
    import sys

    noises = [inputs.pop(name) for name in ("latents", "augmentation") if name in inputs]
    height, width = noises[0].shape[-2:]
    sys.modules[type(pipeline).__module__].randn_tensor = lambda *arguments, **options: noises.pop(0)
    found = {"height": height, "width": width, "clean_caption": False}
    if "small" in inputs:
        found |= {"image": inputs.pop("small").expand(count, -1, -1, -1), "noise_level": 20}
    return found


def load_unidiffuser(folder):
    """Load each part: newer diffusers does not find its classes by the names that its own folders have.

    Its DPM-Solver ends at another noise than that of PPDiffusers, so both draw with DDIM.
    """
    import diffusers
    import transformers
    from diffusers.pipelines.deprecated import unidiffuser

    classes = {
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
        "image_encoder": transformers.CLIPVisionModelWithProjection,
        "clip_image_processor": transformers.CLIPImageProcessor,
        "clip_tokenizer": transformers.CLIPTokenizer,
        "text_decoder": unidiffuser.UniDiffuserTextDecoder,
        "text_tokenizer": transformers.GPT2Tokenizer,
        "unet": unidiffuser.UniDiffuserModel,
    }
    parts = {part: each.from_pretrained(folder, subfolder=part) for part, each in classes.items()}
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler", clip_sample=False)
    pipeline = unidiffuser.UniDiffuserPipeline(**parts, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def from_picture(pipeline, inputs, count, strength):
    """The pipeline that begins from pictures, with the noise of the inputs."""
    import sys

    import diffusers

    vae, noise = pipeline.vae, inputs["latents"]
    latents = (vae.encode(inputs.pop("start")).latent_dist.mean - (vae.config.shift_factor or 0)) * (
        vae.config.scaling_factor
    )
    pipeline = diffusers.AutoPipelineForImage2Image.from_pipe(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    sys.modules[type(pipeline).__module__].randn_tensor = lambda *arguments, **options: noise
    return pipeline, {"image": latents.expand(count, -1, -1, -1), "strength": strength}


def into_region(pipeline, inputs, count, strength, control):
    """The pipeline that paints into a region of a picture, with the noise of the inputs; the VAE gives its mean."""
    import sys

    import diffusers

    noise = inputs.pop("latents")
    for name in ("image", "mask_image", "masked_image_latents"):
        inputs.pop(name, None)  # of a picture that is painted whole
    more = {"controlnet": diffusers.ControlNetModel.from_pretrained(control)} if control else {}
    pipeline = diffusers.AutoPipelineForInpainting.from_pipe(pipeline, **more)
    pipeline.set_progress_bar_config(disable=True)
    module = sys.modules[type(pipeline).__module__]
    module.randn_tensor = lambda *arguments, **options: noise
    module.retrieve_latents = lambda output, **options: output.latent_dist.mean
    rows = {name: inputs.pop(name).expand(count, -1, -1, -1) for name in ("start", "region", "seen") if name in inputs}
    height, width = rows["start"].shape[-2:]
    found = {"image": rows["start"], "mask_image": rows["region"], "strength": strength}
    if control:
        found |= {"control_image": rows["seen"], "controlnet_conditioning_scale": 0.7}
    return pipeline, {**found, "height": height, "width": width}


def enlarging(pipeline, inputs, count):
    """The small picture of an upscaler, with the noise of the inputs."""
    import sys

    noise = inputs.pop("augmentation")
    sys.modules[type(pipeline).__module__].randn_tensor = lambda *arguments, **options: noise
    return {"image": inputs.pop("small").expand(count, -1, -1, -1), "noise_level": 20}


def controlled(pipeline, inputs, count, folder):
    """The pipeline with a ControlNet, which sees a picture."""
    import diffusers

    control = diffusers.ControlNetModel.from_pretrained(folder)
    pipeline = diffusers.AutoPipelineForText2Image.from_pipe(pipeline, controlnet=control)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, {"image": inputs.pop("seen").expand(count, -1, -1, -1), "controlnet_conditioning_scale": 0.7}


def main():
    import torch

    parser = argparse.ArgumentParser()
    for name in ("folder", "inputs", "outputs"):
        parser.add_argument(name)
    parser.add_argument("--file")
    parser.add_argument("--lora")
    parser.add_argument("--strength", type=float)
    parser.add_argument("--control")
    arguments = parser.parse_args()
    pipeline = load(arguments)
    inputs = {
        name: torch.from_numpy(each) for name, each in np.load(arguments.inputs).items() if each.dtype.kind == "f"
    }
    prompts = [str(each) for each in np.load(arguments.inputs)["prompts"]]
    guidance = float(inputs.pop("guidance"))
    with torch.no_grad():
        pixels, has_vae = inputs.pop("pixels"), hasattr(pipeline, "vae")
        found = {"mean": pipeline.vae.encode(pixels).latent_dist.mean if has_vae else pixels}
        options = {} if has_vae else of_pixels(pipeline, inputs, len(prompts))
        if "region" in inputs:
            pipeline, options = into_region(pipeline, inputs, len(prompts), arguments.strength, arguments.control)
        elif arguments.strength:
            pipeline, options = from_picture(pipeline, inputs, len(prompts), arguments.strength)
        elif arguments.control:
            pipeline, options = controlled(pipeline, inputs, len(prompts), arguments.control)
        if "small" in inputs:
            options = enlarging(pipeline, inputs, len(prompts))
        takes = inspect.signature(pipeline.__call__).parameters
        names = {name: each for name, each in inputs.items() if name in takes and not arguments.strength}
        if "height" in takes and not arguments.strength and has_vae:
            noise = inputs["latents" if "latents" in inputs else "vae_latents"]
            options["height"], options["width"] = (2 * each for each in noise.shape[-2:])
        settings = {**names, **options, "num_inference_steps": 4, "guidance_scale": guidance}
        # diffusers 0.42.1 paints with Stable Diffusion 3, and decodes without the VAE's shift
        shift = getattr(pipeline.vae.config, "shift_factor", None) if "mask_image" in options else None
        drawn = pipeline(prompt=prompts, **settings, output_type="latent" if shift else "np").images
        if shift:
            pixels = pipeline.vae.decode(drawn / pipeline.vae.config.scaling_factor + shift).sample
            drawn = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        found["pictures"] = torch.from_numpy(drawn)
    np.savez(arguments.outputs, **{name: each.numpy() for name, each in found.items()})


if __name__ == "__main__":
    main()

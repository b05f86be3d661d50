"""Tiny twins of real models: random weights, but the classes, settings and folders of the real ones."""

import functools
import json

from miniworld.tokenizer import byte_alphabet

SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)


def clip_text(folder, length, **settings):
    """A CLIP tokenizer that spells every word but "sks", and a text encoder of two layers."""
    from ppdiffusers.transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = byte_alphabet()
    words = [*letters, *(letter + "</w>" for letter in letters), "sk", "sks</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\ns k\nsk s</w>\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), max_len=length, model_max_length=length
    )
    config = CLIPTextConfig(
        **{
            **SMALL,
            "vocab_size": len(words),
            "max_position_embeddings": length,
            "projection_dim": 32,
            "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1,
            **settings,
        }
    )
    return tokenizer, CLIPTextModel(config)


def open_clip_text(folder, length):
    """The text encoder of Stable Diffusion 2: another activation, and no multiple of four inside."""
    return clip_text(folder, length, hidden_act="gelu", num_hidden_layers=3)


def bert_text(folder, length):
    """A Chinese BERT as in Taiyi: characters as words, dropout as in the real one, a pooler that nothing uses."""
    from ppdiffusers.transformers import BertConfig, BertModel, BertTokenizer

    characters = "一张照片狗的只猫在雪地上"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *"skaphotfdg",
        *(f"##{each}" for each in "sk"),
        "sks",
    ]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    config = BertConfig(
        **SMALL,
        vocab_size=len(words),
        max_position_embeddings=length,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    return tokenizer, BertModel(config)


def roberta_text(folder, length, width=48):
    """A RoBERTa with a last layer, as in AltDiffusion: its output is wider or narrower than the layers within."""
    from ppdiffusers.pipelines.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesConfig,
        RobertaSeriesModelWithTransformation,
    )
    from ppdiffusers.transformers import BertTokenizer

    _, bert = bert_text(folder, length)
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), model_max_length=length)
    settings = {**SMALL, "hidden_size": width, "vocab_size": bert.config.vocab_size, "type_vocab_size": 1}
    config = RobertaSeriesConfig(**settings, max_position_embeddings=length + 8, project_dim=32, pad_token_id=1)
    return tokenizer, RobertaSeriesModelWithTransformation(config)


def make_folders(folder):
    """Make the folder of a twin, and one beside it for the vocabulary of its tokenizers, which is returned."""
    folder.mkdir(parents=True)
    vocabulary = folder.parent / f"{folder.name}-vocabulary"
    vocabulary.mkdir()
    return vocabulary


def tiny_vae(**settings):
    """Factor 2: 32 x 32 pixels to 16 x 16 x 4 latents."""
    from ppdiffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=32,
        **{"latent_channels": 4, **settings},
    )


TEXTS = {
    "clip": clip_text,
    "open_clip": open_clip_text,
    "bert": bert_text,
    "roberta": roberta_text,
    "square_roberta": functools.partial(roberta_text, width=32),
}


SOLVERS = {
    "PNDMScheduler": dict(skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
    "DDIMScheduler": dict(clip_sample=False, steps_offset=1, set_alpha_to_one=False),
}


def build_twin(
    folder, text="clip", prediction_type="epsilon", scheduler="PNDMScheduler", length=32, inside=None,
    pipeline="StableDiffusionPipeline", more=None, **unet_settings,
):  # fmt: skip
    """A Stable Diffusion with random weights: the same classes, settings and folder layout as the real one."""
    import paddle
    import ppdiffusers
    from ppdiffusers import UNet2DConditionModel

    pipeline_class = getattr(ppdiffusers, pipeline)
    paddle.seed(0)
    vocabulary = make_folders(folder)
    tokenizer, text_encoder = TEXTS[text](vocabulary, length, **({"intermediate_size": inside} if inside else {}))
    vae = tiny_vae()
    unet = UNet2DConditionModel(
        **{
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "sample_size": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            **unet_settings,
        }
    )
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type)
    settings.update(SOLVERS.get(scheduler, {}))
    pipeline = pipeline_class(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=getattr(ppdiffusers, scheduler)(**settings),
        safety_checker=None,
        feature_extractor=None,
        **(more or {"requires_safety_checker": False}),
    )
    pipeline.save_pretrained(str(folder))
    return folder


def build_xl(folder, length=16, **unet_settings):
    """A Stable Diffusion XL with random weights: two text encoders of different widths, sizes as a condition."""
    import paddle
    from ppdiffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from ppdiffusers.transformers import CLIPTextModelWithProjection

    paddle.seed(0)
    vocabulary = make_folders(folder)
    tokenizer, text_encoder = clip_text(vocabulary, length, eos_token_id=2)
    tokenizer_2, other = clip_text(
        vocabulary, length, hidden_size=40, hidden_act="gelu", num_hidden_layers=3, eos_token_id=2
    )
    tokenizer_2.pad_token = "!"
    StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(other.config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=UNet2DConditionModel(
            **{
                "block_out_channels": (16, 32),
                "layers_per_block": 1,
                "sample_size": 16,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2),
                "cross_attention_dim": 72,
                "norm_num_groups": 8,
                "attention_head_dim": (2, 4),
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 6 * 8 + 32,
                **unet_settings,
            }
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    ).save_pretrained(str(folder))
    return folder


def t5_text(folder, width):
    """A T5 of two layers, whose tokenizer is made of a few sentences."""
    import sentencepiece
    from ppdiffusers.transformers import T5Config, T5EncoderModel, T5Tokenizer

    (folder / "sentences.txt").write_text("a photo of sks dog\na dog in snow\ncats and other things\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "sentences.txt"), model_prefix=str(folder / "spiece"), vocab_size=40, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = T5Tokenizer(str(folder / "spiece.model"), extra_ids=0)
    config = T5Config(
        d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=64, feed_forward_proj="gated-gelu",
        dropout_rate=0.1,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config)


def build_sd3(folder, length=16, t5=True):
    """A Stable Diffusion 3 with random weights, with or without T5."""
    import paddle
    from ppdiffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from ppdiffusers.transformers import CLIPTextModelWithProjection

    paddle.seed(0)
    vocabulary = make_folders(folder)
    tokenizer, first = clip_text(vocabulary, length, eos_token_id=2)
    tokenizer_2, second = clip_text(vocabulary, length, hidden_size=40, hidden_act="gelu", eos_token_id=2)
    tokenizer_3, text_encoder_3 = t5_text(vocabulary, 80) if t5 else (None, None)
    StableDiffusion3Pipeline(
        vae=tiny_vae(
            latent_channels=16,
            shift_factor=0.0609,
            scaling_factor=1.5305,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModelWithProjection(first.config),
        text_encoder_2=CLIPTextModelWithProjection(second.config),
        text_encoder_3=text_encoder_3,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        tokenizer_3=tokenizer_3,
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=80,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=16,
            pos_embed_max_size=12,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(str(folder))
    return folder


def build_unidiffuser(folder, length=16):
    """A UniDiffuser of version 1 with random weights: the same classes, settings and folders as the real one."""
    import paddle
    from ppdiffusers import DPMSolverMultistepScheduler, UniDiffuserPipeline
    from ppdiffusers.pipelines.unidiffuser import UniDiffuserModel, UniDiffuserTextDecoder
    from ppdiffusers.transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        GPTTokenizer,
    )

    paddle.seed(0)
    vocabulary = make_folders(folder)
    clip_tokenizer, text_encoder = clip_text(vocabulary, length)
    words = [*byte_alphabet(), "<|endoftext|>"]
    (vocabulary / "gpt.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (vocabulary / "none.txt").write_text("#version: 0.2\n")  # no merges: every letter is a token
    text_tokenizer = GPTTokenizer(str(vocabulary / "gpt.json"), str(vocabulary / "none.txt"), bos_token="<|endoftext|>")
    vision = CLIPVisionConfig(**SMALL, projection_dim=24, image_size=16, patch_size=8)
    UniDiffuserPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        image_encoder=CLIPVisionModelWithProjection(vision),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        clip_tokenizer=clip_tokenizer,
        text_decoder=UniDiffuserTextDecoder(
            prefix_length=length,
            prefix_inner_dim=32,
            prefix_hidden_dim=16,
            vocab_size=len(words),
            n_positions=128,
            n_embd=32,
            n_layer=2,
            n_head=4,
        ),
        text_tokenizer=text_tokenizer,
        unet=UniDiffuserModel(
            text_dim=16,
            clip_img_dim=24,
            num_text_tokens=length,
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            sample_size=16,
            patch_size=2,
            activation_fn="gelu",
            num_embeds_ada_norm=1000,
            norm_type="layer_norm",
            block_type="unidiffuser",
            pre_layer_norm=False,
            use_timestep_embedding=False,
            norm_elementwise_affine=True,
            use_patch_pos_embed=False,
            ff_final_dropout=True,
            use_data_type_embedding=True,
        ),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", solver_order=3
        ),
    ).save_pretrained(str(folder))
    return folder


def build_inpainting(folder):
    """An inpainting model, whose UNet sees a region and the rest of the picture too."""
    return build_twin(folder, pipeline="StableDiffusionInpaintPipeline", in_channels=9, out_channels=4)


def build_upscaler(folder):
    """A model that enlarges, by the factor of its VAE."""
    import ppdiffusers

    settings = dict(beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear")
    return build_twin(
        folder, text="open_clip", prediction_type="v_prediction", scheduler="DDIMScheduler", in_channels=7,
        out_channels=4, num_class_embeds=1000, pipeline="StableDiffusionUpscalePipeline",
        more={"low_res_scheduler": ppdiffusers.DDPMScheduler(**settings)},
    )  # fmt: skip


def build_control(folder, family, seed=1, fresh=False, **settings):
    """A ControlNet for a family's UNet, with the UNet's weights and random ones behind them; fresh, it adds nothing."""
    import paddle
    from ppdiffusers import ControlNetModel

    paddle.seed(seed)
    channels = {"conditioning_embedding_out_channels": (16, 32)}  # two for the VAE's factor of 2
    control = ControlNetModel.from_unet(family.denoiser, **{**channels, **settings})
    if not fresh:
        for name, each in control.named_parameters():
            if "controlnet_" in name:
                each.set_value(0.3 * paddle.randn(each.shape))
    control.save_pretrained(str(folder))
    return folder


def build_pixels(folder, pipeline="IFPipeline", size=16, more=None, **unet_settings):
    """A DeepFloyd IF with random weights: T5, and a UNet of pixels that predicts a variance too."""
    import paddle
    import ppdiffusers

    paddle.seed(0)
    tokenizer, text_encoder = t5_text(make_folders(folder), 40)
    settings = dict(
        beta_schedule="squaredcos_cap_v2", thresholding=True, sample_max_value=1.5, variance_type="learned_range"
    )
    getattr(ppdiffusers, pipeline)(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=ppdiffusers.UNet2DConditionModel(
            **{
                "block_out_channels": (16, 32),
                "layers_per_block": 1,
                "sample_size": size,
                "in_channels": 3,
                "out_channels": 6,
                "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
                "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                "encoder_hid_dim": 40,
                "cross_attention_dim": 256,  # eight in each of the 32 groups of its norm
                "norm_num_groups": 8,
                "attention_head_dim": 8,
                "act_fn": "gelu",
                "resnet_time_scale_shift": "scale_shift",
                "addition_embed_type": "text",
                "addition_embed_type_num_heads": 4,
                "cross_attention_norm": "group_norm",
                **unet_settings,
            }
        ),
        scheduler=ppdiffusers.DDPMScheduler(**settings),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
        **(more or {}),
    ).save_pretrained(str(folder))
    return folder


def build_pixels_upscaler(folder):
    """The second stage of a DeepFloyd IF, which enlarges four times."""
    import ppdiffusers

    noising = ppdiffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return build_pixels(
        folder, "IFSuperResolutionPipeline", size=32, in_channels=6, class_embed_type="timestep",
        more={"image_noising_scheduler": noising},
    )  # fmt: skip


# the pipeline's class of each family of the registry -> its twin
BUILDERS = {
    "StableDiffusionPipeline": build_twin,
    "UniDiffuserPipeline": build_unidiffuser,
    "StableDiffusionXLPipeline": build_xl,
    "StableDiffusion3Pipeline": build_sd3,
    "StableDiffusionInpaintPipeline": build_inpainting,
    "StableDiffusionUpscalePipeline": build_upscaler,
    "IFPipeline": build_pixels,
    "IFSuperResolutionPipeline": build_pixels_upscaler,
}

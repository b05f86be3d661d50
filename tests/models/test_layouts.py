"""Folders as people have them: diffusers' own format in its varieties, and Paddle's store from before 2023."""

import json
import shutil

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file
from support.crafted_pickles import torch_weights
from support.families import load_family, load_pipeline
from support.twins import build_twin, build_unidiffuser

from dreambooth.config.sections import ModelSettings
from dreambooth.models import layouts, pipeline_folder, saving
from dreambooth.run.memory import sizes
from dreambooth.system.errors import BadInput
from dreambooth.system.patches import storage

UNET = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def torch_twin(twin, tmp_path_factory):
    """The twin in diffusers' format."""
    folder = tmp_path_factory.mktemp("torch") / "twin"
    saving.save(load_pipeline(twin), folder, "diffusers")
    return folder


@pytest.fixture
def copy(torch_twin, tmp_path):
    return shutil.copytree(torch_twin, tmp_path / "copy")


def outputs(folder):
    """Compute the outputs of a model's text encoder, UNet and VAE for the same input."""
    pipeline = load_pipeline(folder)
    paddle.seed(1)
    latents, prompt = paddle.randn([2, 4, 16, 16]), paddle.randn([2, 32, 32])
    with paddle.no_grad():
        return {
            "text": pipeline.text_encoder(paddle.arange(64).reshape([2, 32]))[0].numpy(),
            "noise": pipeline.unet(latents, paddle.to_tensor([3, 700]), prompt).sample.numpy(),
            "pixels": pipeline.vae.decode(latents).sample.numpy(),
        }


def assert_like(folder, twin, difference):
    """A model answers as the twin does, up to a difference."""
    pipeline_folder.check(str(folder))
    mine, theirs = outputs(folder), outputs(twin)
    for name in theirs:
        assert np.abs(mine[name] - theirs[name]).max() <= difference, name
        assert np.abs(theirs[name]).max() > 0.01, name


def state(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_a_folder_in_torchs_format_answers_the_same_and_is_not_touched(torch_twin, twin):
    before = state(torch_twin)
    assert_like(torch_twin, twin, 0)
    assert state(torch_twin) == before


def test_in_the_file_matrices_lie_as_torch_has_them(torch_twin, twin):
    name = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2.weight"
    torchs = load_file(torch_twin / "unet" / UNET)[name]
    paddles = load_file(twin / "unet/diffusion_paddle_model.safetensors")[name]
    assert torchs.shape[0] < torchs.shape[1]  # [to, from]
    np.testing.assert_array_equal(torchs, paddles.T)


def as_bin(folder, change=lambda value: value):
    """Turn a folder's weights into .bin files."""
    for part, old, new in (
        ("unet", UNET, "diffusion_pytorch_model.bin"),
        ("vae", UNET, "diffusion_pytorch_model.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
    ):
        weights = load_file(folder / part / old)
        torch_weights(folder / part / new, {name: change(value) for name, value in weights.items()})
        (folder / part / old).unlink()


def test_bin_files_are_read_without_torch(copy, twin):
    as_bin(copy)
    assert_like(copy, twin, 0)


def test_strides_are_torchs(copy, twin):
    """Convolutions in channels_last and transposed matrices, which the library alone permutes."""

    def turned(value):
        if value.ndim == 4:
            return np.ascontiguousarray(value.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(value.T).T

    as_bin(copy, turned)
    assert_like(copy, twin, 0)


def test_half_precision_stands_in_where_there_is_no_other(copy, twin):
    for path in copy.rglob("*.safetensors"):
        halves = {name: value.astype(np.float16) for name, value in load_file(path).items()}
        save_file(halves, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
        path.unlink()
    assert_like(copy, twin, 0.02)
    parts = load_pipeline(copy).unet.parameters()
    assert {each.dtype for each in parts} == {paddle.float32}


@pytest.mark.parametrize("beside", ["model.fp16.safetensors", "pytorch_model.bin", "flax_model.msgpack"])
def test_of_several_files_the_best_is_taken(copy, twin, beside):
    (copy / "text_encoder" / beside).write_bytes(b"not read")
    assert_like(copy, twin, 0)


def test_a_text_encoder_and_a_tokenizer_of_transformers_5(copy, twin):
    file = copy / "text_encoder/model.safetensors"
    bare = {name.removeprefix("text_model."): value for name, value in load_file(file).items()}
    save_file(bare, file, {"format": "pt"})
    tokenizer = copy / "tokenizer"
    merges = [line.split() for line in (tokenizer / "merges.txt").read_text().splitlines()[1:]]
    vocabulary = json.loads((tokenizer / "vocab.json").read_text())
    whole = {"model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}
    (tokenizer / "tokenizer.json").write_text(json.dumps(whole))
    for name in ("vocab.json", "merges.txt"):
        (tokenizer / name).unlink()
    assert_like(copy, twin, 0)
    one, other = (load_pipeline(each).tokenizer("a sks dog").input_ids for each in (copy, twin))
    assert one == other


def test_the_words_of_a_chinese_tokenizer_json(bert_twin, tmp_path):
    saving.save(load_pipeline(bert_twin), tmp_path / "copy", "diffusers")
    vocabulary = tmp_path / "copy/tokenizer/vocab.txt"
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    model = {"type": "WordPiece", "vocab": {word: index for index, word in enumerate(words)}}
    (vocabulary.parent / "tokenizer.json").write_text(json.dumps({"model": model}, ensure_ascii=False))
    vocabulary.unlink()
    tokenizer = load_pipeline(tmp_path / "copy").tokenizer
    assert tokenizer.tokenize("一张狗的照片") == ["一", "张", "狗", "的", "照", "片"]


def encoded_by_alt_diffusion(pipeline):
    with paddle.no_grad():
        return pipeline.text_encoder((paddle.arange(64) % 28 + 2).reshape([2, 32])).projection_state.numpy()


@pytest.mark.parametrize("text", ["roberta", "square_roberta"])
def test_altdiffusion_in_torchs_format(text, tmp_path):
    """Its last layer is a matrix, which the library does not know."""
    twin = load_pipeline(build_twin(tmp_path / "twin", text=text))
    saving.save(twin, tmp_path / "torch", "diffusers")
    again = load_pipeline(tmp_path / "torch")
    for name, value in twin.text_encoder.state_dict().items():
        assert np.array_equal(value.numpy(), again.text_encoder.state_dict()[name].numpy()), name
    assert np.array_equal(encoded_by_alt_diffusion(again), encoded_by_alt_diffusion(twin))


@pytest.mark.parametrize("kind", [False, True])
def test_the_library_alone_does_not_transpose_the_last_layer(kind):
    from ppdiffusers.pipelines.alt_diffusion import modeling_roberta_series

    network = modeling_roberta_series.RobertaSeriesModelWithTransformation
    config = modeling_roberta_series.RobertaSeriesConfig(num_hidden_layers=1, has_pre_transformation=kind)
    config.architectures = ["RobertaSeriesModelWithTransformation"]

    def transposed(mappings):
        return {each.source_name for each in mappings if each.action == "transpose" and "transf" in each.source_name}

    assert transposed(network.__mro__[1]._get_name_mappings.__func__(network, config)) == set()
    storage.transpose_last_layer(["BertModel", "UNet2DConditionModel"])
    storage.transpose_last_layer(["BertModel", "RobertaSeriesModelWithTransformation"])
    known = transposed(network._get_name_mappings(config))
    assert known == {"transformation.weight", *(["transformation_pre.weight"] if kind else [])}


def test_a_weight_that_is_missing_is_told(copy):
    file = copy / "unet" / UNET
    weights = load_file(file)
    weights.pop("conv_in.bias")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(BadInput, match="lack 1 weights, conv_in.bias"):
        load_pipeline(copy)


def test_parts_in_two_formats_are_refused(copy, twin):
    shutil.rmtree(copy / "vae")
    shutil.copytree(twin / "vae", copy / "vae")
    with pytest.raises(BadInput, match="vae/ is in Paddle's format, and text_encoder/ in torch's"):
        load_pipeline(copy)


def test_newer_names_of_a_unidiffusers_parts(tmp_path):
    twin = build_unidiffuser(tmp_path / "twin")
    family = load_family(twin)
    family.save(tmp_path / "torch", "diffusers")
    assert (tmp_path / "torch/clip_image_processor").is_dir() and not (tmp_path / "torch/image_processor").exists()
    pipeline_folder.check(str(tmp_path / "torch"))
    again = load_family(tmp_path / "torch")
    pixels = paddle.rand([1, 3, 32, 32]) * 2 - 1
    one, other = family.encode_pictures(pixels), again.encode_pictures(pixels)
    for name in one:
        np.testing.assert_array_equal(one[name].numpy(), other[name].numpy())


# Paddle's store

OLD_NAMES = {".encoder.layers.": ".transformer.layers.", ".embeddings.position_embedding.": ".positional_embedding."}
OLD_NAMES |= {".embeddings.token_embedding.": ".token_embedding.", ".final_layer_norm.": ".ln_final."}
OLD_NAMES |= {
    ".mlp.fc1.": ".linear1.",
    ".mlp.fc2.": ".linear2.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
}


def make_old(folder):
    """Give a twin's text encoder the names that it has in most folders of Paddle's store."""
    part = folder / "text_encoder"
    weights = {}
    for name, value in load_file(part / "model.safetensors").items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        weights[name] = paddle.to_tensor(value)
    paddle.save(weights, str(part / "model_state.pdparams"))
    settings = json.loads((part / "config.json").read_text())
    old = {
        "max_text_length": settings["max_position_embeddings"],
        "vocab_size": settings["vocab_size"],
        "text_embed_dim": settings["hidden_size"],
        "text_heads": settings["num_attention_heads"],
        "text_layers": settings["num_hidden_layers"],
        "text_hidden_act": "quick_gelu",
        "projection_dim": 32,
        "initializer_range": 0.02,
        "init_class": "CLIPTextModel",
    }
    (part / "model_config.json").write_text(json.dumps(old))
    for name in ("model.safetensors", "config.json"):
        (part / name).unlink()


@pytest.fixture
def wide_twin(tmp_path):
    """A twin whose text encoder is four times as wide inside, as all real ones are."""
    from support.twins import build_twin

    return build_twin(tmp_path / "wide", inside=128)


def test_a_text_encoder_with_the_settings_of_paddles_store(wide_twin, tmp_path):
    old = shutil.copytree(wide_twin, tmp_path / "old")
    make_old(old)
    assert_like(old, wide_twin, 0)


# what to fetch


def test_of_a_repository_only_what_is_needed_is_fetched():
    files = [
        ".gitattributes",
        "README.md",
        "model_index.json",
        "v1-4.ckpt",
        "scheduler/scheduler_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/flax_model.msgpack",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.bin",
        "feature_extractor/preprocessor_config.json",
    ]
    assert layouts.worth_fetching(files) == [
        "feature_extractor/preprocessor_config.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.bin",
    ]


def test_of_a_repository_in_both_formats_the_safetensors_of_one_are_fetched():
    files = [
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_paddle_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_paddle_model.safetensors",
        "text_encoder/model_state.pdparams",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.safetensors",
        "text_encoder/modeling.py",
        "unet_ema/diffusion_pytorch_model.safetensors",
    ]
    paddles = ["text_encoder/model.safetensors", *(f"{part}/{layouts.PADDLE[0]}" for part in ("unet", "vae"))]
    assert layouts.worth_fetching(files) == ["model_index.json", *paddles]
    torchs = [*files, *(f"{part}/{UNET}" for part in ("unet", "vae"))]
    assert layouts.worth_fetching(torchs) == [
        "model_index.json",
        "text_encoder/model.safetensors",
        *(f"{part}/{UNET}" for part in ("unet", "vae")),
    ]


PDPARAMS, BIN, TEXT_BIN, PADDLES = (
    "model_state.pdparams",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    layouts.PADDLE[0],
)
HALF = UNET.replace(".", ".fp16.")


@pytest.mark.parametrize(
    "text, unet, text_is_torch, chosen",
    [
        # one format alone
        ([PDPARAMS], [PDPARAMS], None, (False, PDPARAMS, PDPARAMS)),
        (["model.safetensors"], [PADDLES], False, (False, "model.safetensors", PADDLES)),
        ([TEXT_BIN], [BIN], None, (True, TEXT_BIN, BIN)),
        (["model.safetensors"], [HALF], True, (True, "model.safetensors", HALF)),
        # safetensors before pickles, in whichever format they are
        ([PDPARAMS, "model.safetensors"], [PDPARAMS, UNET], True, (True, "model.safetensors", UNET)),
        ([TEXT_BIN, "model.safetensors"], [BIN, PADDLES], False, (False, "model.safetensors", PADDLES)),
        ([PDPARAMS, TEXT_BIN], [PADDLES, BIN], None, (False, PDPARAMS, PADDLES)),
        # both whole and safe: no conversion is needed
        ([PDPARAMS, "model.safetensors"], [PADDLES, UNET], False, (False, "model.safetensors", PADDLES)),
        # a .pdparams that was left or planted in a folder of torch
        ([PDPARAMS, TEXT_BIN], [BIN], None, (True, TEXT_BIN, BIN)),
        ([PDPARAMS, TEXT_BIN], [PDPARAMS, BIN], None, (True, TEXT_BIN, BIN)),
        ([PDPARAMS, "model.safetensors"], [PDPARAMS, BIN], True, (True, "model.safetensors", BIN)),
        # full precision before half
        ([TEXT_BIN], [HALF, BIN], None, (True, TEXT_BIN, BIN)),
        # neither is whole
        ([PDPARAMS], [BIN], None, None),
        (["model.safetensors"], [BIN], False, None),
        (["model.safetensors"], [PDPARAMS], True, None),
    ],
)
def test_the_files_of_all_networks_go_together(text, unet, text_is_torch, chosen):
    kinds = {} if text_is_torch is None else {"text_encoder": text_is_torch}
    choice = layouts.choose({"text_encoder": text, "unet": unet}, kinds)
    files = choice and (choice.is_torch, *(choice.files[part].file for part in ("text_encoder", "unet")))
    assert files == chosen


def test_the_library_sees_the_chosen_files_alone(copy):
    for name in ("None.py", "unet/model_state.pdparams", "unet/evil.py", "vae/x.bin", "text_encoder/a.index.json"):
        (copy / name).write_bytes(b"{}")
    (copy / "another").mkdir()
    (copy / "another/config.json").write_text("{}")
    index = copy / "model_index.json"
    known = {**json.loads(index.read_text()), "another": ["ppdiffusers", "AutoencoderKL"], "image_encoder": None}
    index.write_text(json.dumps(known))
    with layouts.readable(copy, "--model") as (links, is_torch):
        seen = {str(path.relative_to(links)) for path in links.rglob("*") if path.is_file()}
        named = json.loads((links / "model_index.json").read_text())
    assert is_torch and seen == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        *(f"tokenizer/{name.name}" for name in (copy / "tokenizer").iterdir()),
        *(f"{part}/{name}" for part in ("unet", "vae") for name in ("config.json", UNET)),
    }
    parts = {name for name in named if not name.startswith("_")}
    assert parts == {"scheduler", "text_encoder", "tokenizer", "unet", "vae"}


def test_settings_name_the_models_own_folder(copy, twin):
    for folder in (copy, twin):
        pipeline = load_pipeline(str(folder))
        assert pipeline.unet.config._name_or_path == str(folder / "unet")
        assert pipeline.config._name_or_path == str(folder)
        assert "/tmp/dreambooth-" not in json.dumps(pipeline.tokenizer.init_kwargs, default=str)


def test_what_was_read_can_be_saved_and_only_small_files_are_kept_until_then(copy, tmp_path):
    family = load_family(copy)
    family.free_encoders()
    family.save(tmp_path / "saved", "safetensors")
    assert (tmp_path / "saved/tokenizer/vocab.json").read_text() == (copy / "tokenizer/vocab.json").read_text()
    assert_like(tmp_path / "saved", copy, 0)
    kept = [path for folder in layouts._kept for path in layouts.Path(folder.name).rglob("*")]
    assert kept and not [path for path in kept if path.suffix not in ("", ".json", ".txt", ".model")]


# weights in several files


def read_sizes(folder):
    return sizes.read(ModelSettings(pretrained_model_name_or_path=str(folder)))


def in_parts(folder, kind="pt", half=False):
    """Write a network's one file of weights as two files and their index, as Hugging Face has them."""
    [file] = folder.glob("*.safetensors")
    weights = load_file(file)
    names, map_of_files = sorted(weights), {}
    for number, chosen in enumerate((names[::2], names[1::2]), 1):
        path = folder / f"model{'.fp16' if half else ''}-{number:05}-of-00002.safetensors"
        values = {name: weights[name].astype(np.float16 if half else np.float32) for name in chosen}
        save_file(values, path, metadata={"format": kind})
        map_of_files |= dict.fromkeys(chosen, path.name)
    index = folder / f"model.safetensors.index{'.fp16' if half else ''}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": map_of_files}))
    file.unlink()
    return index


@pytest.fixture
def of_torch(sd3_twin, tmp_path):
    load_family(sd3_twin).save(tmp_path / "of torch", "diffusers")
    return tmp_path / "of torch"


@pytest.mark.parametrize("half", [False, True])
def test_a_network_may_have_its_weights_in_several_files(of_torch, sd3_twin, half, tmp_path):
    whole = read_sizes(of_torch)
    in_parts(of_torch / "text_encoder_3", half=half)
    pipeline_folder.check(str(of_torch))
    family, base = load_family(of_torch), load_family(sd3_twin)
    for name, value in base.pipeline.text_encoder_3.state_dict().items():
        expected = value.numpy().astype(np.float16 if half else np.float32).astype(np.float32)
        np.testing.assert_array_equal(family.pipeline.text_encoder_3.state_dict()[name].numpy(), expected)
    assert read_sizes(of_torch).weights == whole.weights
    family.free_encoders()
    family.save(tmp_path / "again", "safetensors")
    assert len(list((tmp_path / "again/text_encoder_3").glob("*.safetensors"))) == 1


def test_faults_of_several_files_are_named(of_torch):
    index = in_parts(of_torch / "text_encoder_3")
    good = json.loads(index.read_text())
    weight = next(iter(good["weight_map"]))
    for bad, fault in (
        ("../../secret.safetensors", r"text_encoder_3/model.safetensors.index.json names '../../secret.safetensors'"),
        ("model-00003-of-00002.safetensors", "names 'model-00003-of-00002.safetensors', which is not there"),
    ):
        index.write_text(json.dumps({**good, "weight_map": {**good["weight_map"], weight: bad}}))
        with pytest.raises(BadInput, match=f"it can't be loaded .*{fault}"):
            pipeline_folder.check(str(of_torch))
    for text in ("{}", "[]", '{"weight_map": 3}'):
        index.write_text(text)
        with pytest.raises(BadInput, match="text_encoder_3/model.safetensors.index.json is no index of weights"):
            pipeline_folder.check(str(of_torch))


def test_several_files_of_paddle_are_refused(of_torch):
    in_parts(of_torch / "text_encoder_3", kind="np")
    with pytest.raises(BadInput, match="text_encoder_3/ has weights of Paddle in several files; join them in one"):
        pipeline_folder.check(str(of_torch))


@pytest.mark.parametrize("half", [False, True])
def test_several_files_are_fetched_with_their_index(half):
    parts = [f"text_encoder/model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = [name.replace("model-", "model.fp16-") for name in parts]
    others = ["text_encoder/pytorch_model-00001-of-00002.bin", "text_encoder/pytorch_model.bin.index.json"]
    names = [
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json",
        "text_encoder/model.safetensors.index.fp16.json", *halves, *others,
    ]  # fmt: skip
    names += [] if half else ["text_encoder/model.safetensors.index.json", *parts]
    found = layouts.worth_fetching(names)
    assert set(halves if half else parts) <= set(found)
    assert not {*others[:1], *(parts if half else halves)} & set(found)

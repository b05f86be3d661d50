"""Tokenizers: their length, another one, and what of a prompt is lost."""

from dreambooth.system.errors import BadInput


def limit_tokens(tokenizer, text_encoder):
    """Let a tokenizer make at most as many tokens as the text encoder has positions; one that knows no maximum says
    1e30, and fails. The limit is saved with it."""
    most = text_encoder.config.max_position_embeddings
    if tokenizer.model_max_length > most:
        tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = most


def another_tokenizer(name, own, text_encoder):
    """Another tokenizer than the model's own, of the same kind."""
    try:
        tokenizer = type(own).from_pretrained(name)
    except Exception as error:
        raise BadInput(f"--tokenizer_name {name}: it can't be loaded ({error})") from error
    limit_tokens(tokenizer, text_encoder)
    return tokenizer


def lost_text(tokenizer, prompt):
    """The end of a prompt that does not fit into the tokenizer's maximum, or ""."""
    whole = tokenizer(prompt)["input_ids"]
    # the last token is the end mark, and the cut prompt has one too
    return tokenizer.decode(whole[tokenizer.model_max_length - 1 : -1]).strip()

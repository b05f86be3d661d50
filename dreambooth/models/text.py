"""Tokenizers and text encoders: what the library gets wrong or leaves open about them."""

from dreambooth.config import BadInput


def keep_padding(text_encoder):
    """Let the embedding of the padding token count, as it does where these models were trained. Paddle's layer answers
    with zeros for it; without a padding token in its settings, the saved text encoder loads right as well."""
    from paddle import nn

    for layer in text_encoder.sublayers():
        if isinstance(layer, nn.Embedding) and layer._padding_idx is not None:
            layer._padding_idx = text_encoder.config.pad_token_id = None


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


def lost(tokenizer, prompt):
    """The end of a prompt that does not fit into the tokenizer's maximum, or ""."""
    whole = tokenizer(prompt)["input_ids"]
    # the last token is the end mark, and the cut prompt has one too
    return tokenizer.decode(whole[tokenizer.model_max_length - 1 : -1]).strip()

"""What a saved model tells AutoModel about the code that it brings along."""


class RemoteCodeMixin:
    """Mixed into a `PreTrainedModel` whose folder holds its code.

    `_auto_map`: what `AutoModel` and its like load from that code, beside the class that was saved, which transformers
    adds itself: the base model can be had from a folder of any model that holds it.
    """

    _auto_map: dict[str, str]

    def save_pretrained(self, save_directory, **kwargs):
        if self.is_remote_code():
            self.config.auto_map = dict(self._auto_map)
        super().save_pretrained(save_directory, **kwargs)

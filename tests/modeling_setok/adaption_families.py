"""Tiny vision-language models of many families of transformers, each with a batch of two rows that fits it.

`FAMILIES[name]()` gives a `Family`. Rows have one image each and different lengths, padded on the left. Images have
flat areas and a little noise, so that their patches form clusters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

IMAGE, VIDEO, START, END = 100, 101, 102, 103
NO_TEXT = [IMAGE, VIDEO, START, END]  # ids that generated text must not have: they would be read as images
PADDING, FIRST_WORD = 0, 5


class Family(NamedTuple):
    """`inputs`: of two rows; `appended`: what per-token inputs other than the mask have for generated tokens."""

    model: PreTrainedModel
    inputs: dict[str, torch.Tensor]
    appended: int = 0


TEXT = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": PADDING,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "partial_rotary_factor": 1.0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
PACKED_VISION = {
    "depth": 2,
    "num_heads": 2,
    "hidden_size": 32,
    "embed_dim": 32,
    "intermediate_size": 48,
    "out_hidden_size": 32,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "image_size": 32,
}
GRIDS = torch.tensor([[1, 8, 6], [1, 8, 10]])


def text(model_type: str, **settings) -> dict[str, Any]:
    return {**TEXT, "model_type": model_type, **settings}


def vision(model_type: str, **settings) -> dict[str, Any]:
    return {**VISION, "model_type": model_type, **settings}


def pictures(*shape: int) -> torch.Tensor:
    """(*shape, 3, height, width) float, of four flat areas with a little noise."""
    *many, height, width = shape
    areas = torch.randn(*many, 3, 2, 2).repeat_interleave(height // 2, -2).repeat_interleave(width // 2, -1)
    return areas + torch.randn_like(areas) / 20


def packed_patches(sizes: list[int], dim: int) -> torch.Tensor:
    """(sum of sizes, dim): the patches of images one after the other, each of four flat areas with a little noise."""
    rows = [torch.randn(4, dim).repeat_interleave(size // 4, 0) for size in sizes]
    return torch.cat(rows) + torch.randn(sum(sizes), dim) / 20


def packed(dim: int) -> dict[str, torch.Tensor]:
    """Patches of `dim` numbers of two images of the sizes GRIDS (time, height, width)."""
    return {"pixel_values": packed_patches(GRIDS.prod(1).tolist(), dim), "image_grid_thw": GRIDS}


def model_of(model_type: str, text_config: dict, vision_config: dict | None, **settings) -> PreTrainedModel:
    """The family's model with a head; settings: of its whole configuration."""
    if vision_config is not None:
        settings["vision_config"] = vision_config
    config = AutoConfig.for_model(model_type, text_config=text_config, **{"image_token_id": IMAGE, **settings})
    model = AutoModelForImageTextToText.from_config(config).eval()
    for parameter in model.parameters():  # larger than before training, so that all of them show in the logits
        parameter.data.normal_(std=0.2).add_(float(parameter.ndim == 1))
    return model


def family(
    model: PreTrainedModel,
    images: dict[str, torch.Tensor],
    *,
    before: tuple[int, ...] = (),
    after: tuple[int, ...] = (),
    types: str | None = None,
    appended: int = 0,
) -> Family:
    """The model, and two rows of text around the images.

    before, after: ids around the placeholders of an image. types: name of an input with 1 for each placeholder.
    """
    with torch.no_grad():
        patches = model.base_model.get_image_features(**images, return_dict=True).pooler_output
    counts = [len(x) for x in patches] if len(patches) == 2 else [len(patches) // 2] * 2
    rows = []
    for count, words in zip(counts, ((3, 6), (2, 2)), strict=True):
        first, second = (torch.randint(FIRST_WORD, IMAGE, (number,)).tolist() for number in words)
        rows.append(torch.tensor([*first, *before, *[IMAGE] * count, *after, *second]))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING, padding_side="left")
    inputs = {"input_ids": ids, "attention_mask": (ids != PADDING).long(), **images}
    if types is not None:
        inputs[types] = (ids == IMAGE).long()
    return Family(model, inputs, appended)


def around_pixels(model_type: str, text_config: dict, vision_config: dict, **settings) -> Family:
    """A family whose images are pixels of one size."""
    return family(model_of(model_type, text_config, vision_config, **settings), {"pixel_values": pictures(2, 32, 32)})


def with_sizes(model_type: str, text_config: dict, vision_config: dict, pixels: torch.Tensor, sizes, **settings):
    images = {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}
    return family(model_of(model_type, text_config, vision_config, **settings), images)


def with_grids(
    model_type: str,
    text_config: dict,
    vision_config: dict,
    *,
    dim: int = 96,
    types: str | None = "mm_token_type_ids",
    **settings,
) -> Family:
    """A family of packed patches of `dim` numbers, with M-RoPE where it takes `types`."""
    ids = {
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
        "image_start_token_id": START,
        "image_end_token_id": END,
    }
    model = model_of(model_type, text_config, {**PACKED_VISION, **vision_config}, **(ids | settings))
    return family(model, packed(dim), before=(START,), after=(END,), types=types)


def llava() -> Family:
    return around_pixels("llava", text("llama"), vision("clip_vision_model"))


def vipllava() -> Family:
    return around_pixels("vipllava", text("llama"), vision("clip_vision_model"), vision_feature_layer=(-2, -1))


def llava_next() -> Family:
    return with_sizes(
        "llava_next",
        text("mistral"),
        vision("clip_vision_model"),
        pictures(2, 3, 32, 32),
        [[30, 60], [64, 32]],
        image_grid_pinpoints=[[32, 64], [64, 32]],
    )


def llava_onevision() -> Family:
    return with_sizes(
        "llava_onevision",
        text("qwen2"),
        vision("siglip_vision_model", vision_use_head=False),
        pictures(2, 3, 32, 32),
        [[30, 60], [64, 32]],
        image_grid_pinpoints=[[32, 64], [64, 32]],
        video_token_id=VIDEO,
    )


def mistral3() -> Family:
    pixels, sizes = pictures(2, 48, 48), [[32, 48], [48, 48]]
    return with_sizes("mistral3", text("mistral"), vision("pixtral", head_dim=16), pixels, sizes)


def lighton_ocr() -> Family:
    pixels, sizes = pictures(2, 48, 48), [[32, 48], [48, 48]]
    return with_sizes("lighton_ocr", text("qwen3"), vision("pixtral", head_dim=16), pixels, sizes)


def internvl() -> Family:
    return around_pixels("internvl", text("qwen2"), vision("internvl_vision"))


def qianfan_ocr() -> Family:
    return around_pixels("qianfan_ocr", text("qwen3"), vision("qianfan_ocr_vision"))


def aya_vision() -> Family:
    return around_pixels("aya_vision", text("cohere2"), vision("siglip_vision_model", vision_use_head=False))


def cohere2_vision() -> Family:
    tower = vision("siglip_vision_model", vision_use_head=False)
    return around_pixels("cohere2_vision", text("cohere2"), tower, alignment_intermediate_size=32)


def deepseek_vl() -> Family:
    return around_pixels("deepseek_vl", text("llama"), vision("siglip_vision_model", vision_use_head=False))


def got_ocr2() -> Family:
    tower = vision("got_ocr2_vision", image_size=64, patch_size=4, output_channels=16, mlp_dim=48)
    model = model_of("got_ocr2", text("qwen2"), tower | {"window_size": 4, "global_attn_indexes": [1]})
    return family(model, {"pixel_values": pictures(2, 64, 64)})


def deepseek_ocr2() -> Family:
    sam = vision("deepseek_ocr2_sam_vision_model", image_size=64, patch_size=8, output_channels=16)
    sam |= {"downsample_channels": [16, 32], "mlp_ratio": 1.5, "window_size": 4, "global_attn_indexes": [1]}
    tower = {"sam_config": sam, "encoder_config": text("deepseek_ocr2_encoder")}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    experts |= {"n_group": 1, "topk_group": 1, "mlp_layer_types": ["dense", "sparse"]}
    model = model_of("deepseek_ocr2", text("deepseek_ocr2_text", **experts), tower)
    return family(model, with_crops(pictures(2, 64, 64), pictures(3, 64, 64)))


def aria() -> Family:
    decoder = text("aria_text", moe_num_experts=4, moe_topk=2)
    tower = vision("idefics3_vision")
    model = model_of("aria", decoder, tower, projector_patch_to_query_dict={16: 9})
    return family(model, {"pixel_values": pictures(2, 32, 32), "pixel_mask": torch.ones(2, 32, 32, dtype=torch.bool)})


def emu3() -> Family:
    codes = {f"<|visual token {code:06}|>": 10 + code for code in range(16)}
    vq = {"codebook_size": 16, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}
    vq |= {"hidden_size": 32, "attn_resolutions": [], "embed_dim": 4, "latent_channels": 4}
    vocabulary = {"<image>": IMAGE, "<|extra_200|>": 30, **codes}
    model = model_of("emu3", text("emu3_text_model"), None, vq_config=vq, vocabulary_map=vocabulary)
    return family(model, {"pixel_values": pictures(2, 12, 12), "image_sizes": torch.tensor([[12, 12], [12, 8]])})


def ovis2() -> Family:
    tower = vision("ovis2_vision", vocab_size=40, num_visual_indicator_tokens=2)
    sizes = {"hidden_size": 32, "vocab_size": 120}
    model = model_of("ovis2", text("qwen2"), tower, visual_indicator_token_ids=[START, END], **sizes)
    return family(model, {"pixel_values": pictures(2, 32, 32)}, before=(START,), after=(END,))


def gemma3() -> Family:
    model = model_of(
        "gemma3",
        text("gemma3_text", layer_types=["sliding_attention", "full_attention"], sliding_window=12),
        vision("siglip_vision_model", vision_use_head=False, patch_size=4),
        mm_tokens_per_image=16,
        boi_token_id=START,
        eoi_token_id=END,
    )
    return family(model, {"pixel_values": pictures(2, 32, 32)}, before=(START,), after=(END,), types="token_type_ids")


def paligemma() -> Family:
    tower = vision("siglip_vision_model", vision_use_head=False, projection_dim=32)
    model = model_of("paligemma", text("gemma"), tower, projection_dim=32, hidden_size=32)
    made = family(model, {"pixel_values": pictures(2, 32, 32)}, types="token_type_ids", appended=1)
    return made._replace(inputs=made.inputs | {"token_type_ids": torch.zeros_like(made.inputs["input_ids"])})


def idefics2() -> Family:
    perceiver = {"hidden_size": 32, "resampler_n_latents": 9, "resampler_depth": 1, "resampler_n_heads": 2}
    perceiver |= {"resampler_head_dim": 16, "num_key_value_heads": 1}
    model = model_of("idefics2", text("mistral"), vision("idefics2_vision"), perceiver_config=perceiver)
    return family(model, with_pixel_mask(pictures(2, 1, 32, 32)))


def idefics3() -> Family:
    model = model_of("idefics3", text("llama"), vision("idefics3_vision", patch_size=4), scale_factor=2)
    return family(model, with_pixel_mask(pictures(2, 1, 32, 32)))


def smolvlm() -> Family:
    model = model_of("smolvlm", text("llama"), vision("smolvlm_vision", patch_size=4), scale_factor=2)
    return family(model, with_pixel_mask(pictures(2, 1, 32, 32)))


def with_crops(pixels: torch.Tensor, crops: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": pixels, "pixel_values_local": crops, "num_local_patches": torch.tensor([1, 2])}


def with_pixel_mask(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": pixels, "pixel_attention_mask": torch.ones_like(pixels[:, :, 0], dtype=torch.bool)}


def qwen2_vl() -> Family:
    return with_grids("qwen2_vl", text("qwen2_vl_text", **MROPE), {"mlp_ratio": 1})


def qwen2_5_vl() -> Family:
    windows = {"window_size": 16, "fullatt_block_indexes": [1]}
    return with_grids("qwen2_5_vl", text("qwen2_5_vl_text", **MROPE), windows)


def qwen3_vl() -> Family:
    layers = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    return with_grids("qwen3_vl", text("qwen3_vl_text", **MROPE), layers)


def qwen3_vl_moe() -> Family:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    layers = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    return with_grids("qwen3_vl_moe", text("qwen3_vl_moe_text", **MROPE, **experts), layers)


def qwen3_5() -> Family:
    return with_grids("qwen3_5", text("qwen3_5_text", **LINEAR, **MROPE), {"num_position_embeddings": 16})


def glm4v() -> Family:
    return with_grids("glm4v", text("glm4v_text", **MROPE), {})


def glm46v() -> Family:
    return with_grids("glm46v", text("glm4v_text", **MROPE), {"model_type": "glm4v_vision"})


def glm4v_moe() -> Family:
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return with_grids("glm4v_moe", text("glm4v_moe_text", partial_rotary_factor=1.0, **MROPE, **experts), {})


def glm_ocr() -> Family:
    return with_grids("glm_ocr", text("glm_ocr_text", **MROPE), {})


def exaone4_5() -> Family:
    windows = {"window_size": 16, "fullatt_block_indexes": [1], "num_key_value_heads": 1}
    decoder = text("exaone4", layer_types=["full_attention"] * 2, sliding_window=None)
    return with_grids("exaone4_5", decoder, windows, types=None)


def ernie4_5_vl_moe() -> Family:
    experts = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": [16, 16], "moe_num_shared_experts": 1}
    sections = {"rope_parameters": MROPE["rope_parameters"] | {"mrope_section": [3, 3, 2]}}  # height, width, time
    decoder = text("ernie4_5_vl_moe_text", **sections, **experts)
    return with_grids("ernie4_5_vl_moe", decoder, {"temporal_merge_size": 2}, dim=48)


def paddleocr_vl() -> Family:
    tower = {**VISION, "patch_size": 4, "spatial_merge_size": 2}
    model = model_of(
        "paddleocr_vl",
        text("paddleocr_vl_text", **MROPE),
        tower,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    images = packed(48)
    images["pixel_values"] = images["pixel_values"].view(-1, 3, 4, 4)
    return family(model, images, before=(START,), after=(END,), types="mm_token_type_ids")


def hunyuan_vl() -> Family:
    tower = {**VISION, "patch_size": 4, "spatial_merge_size": 2, "out_hidden_size": 32, "max_image_size": 32}
    model = model_of("hunyuan_vl", text("hunyuan_vl_text", **MROPE), tower)
    return family(model, packed(48), types="mm_token_type_ids")


def video_llama_3() -> Family:
    tower = vision("video_llama_3_vision", patch_size=4)
    model = model_of("video_llama_3", text("qwen2"), tower, video_token_id=VIDEO)
    return family(model, packed(48) | {"image_merge_sizes": torch.tensor([2, 2])})


def minicpmv4_6() -> Family:
    tower = vision("minicpmv4_6_vision", patch_size=4)
    model = model_of("minicpmv4_6", text("qwen3"), tower, insert_layer_id=0, video_token_id=VIDEO)
    sizes = torch.tensor([[8, 12], [12, 12]])
    strip = packed_patches(sizes.prod(1).tolist(), 48).view(-1, 3, 4, 4).permute(1, 2, 0, 3).reshape(1, 3, 4, -1)
    return family(model, {"pixel_values": strip, "target_sizes": sizes})


def lfm2_vl() -> Family:
    tower = vision("siglip2_vision_model", patch_size=4, num_patches=64, vision_use_head=False)
    decoder = text("lfm2", layer_types=["conv", "full_attention"], conv_L_cache=3, block_multiple_of=8)
    model = model_of("lfm2_vl", decoder, tower, projector_hidden_size=32)
    shapes = torch.tensor([[8, 6], [8, 8]])
    mask = torch.arange(64) < shapes.prod(1)[:, None]
    pixels = packed_patches([64, 64], 48).view(2, 64, 48)
    return family(model, {"pixel_values": pixels, "spatial_shapes": shapes, "pixel_attention_mask": mask.long()})


def cosmos3_omni() -> Family:
    layers = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    return with_grids("cosmos3_omni", text("qwen3_vl_text", **MROPE), layers)


def cosmos3_edge() -> Family:
    tower = {**VISION, "patch_size": 4, "num_patches": 64, "spatial_merge_size": 2}
    return with_grids("cosmos3_edge", text("cosmos3_edge_text", **MROPE), tower, dim=48, projector_hidden_size=32)


def minimax_m3_vl() -> Family:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "dense_intermediate_size": 48, "rotary_dim": 8}
    experts |= {"shared_intermediate_size": 16, "mlp_layer_types": ["dense", "sparse"]}
    tower = {**VISION, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    decoder = text("minimax_m3_vl_text", **experts)
    return with_grids("minimax_m3_vl", decoder, tower, projector_hidden_size=32, types=None)


def muse_glimmer() -> Family:
    tower = {**VISION, "patch_size": 4, "merge_size": 2, "patch_temporal": 2, "pos_emb_height": 8, "pos_emb_width": 8}
    decoder = text("muse_glimmer_text", sliding_window=8)
    return with_grids("muse_glimmer", decoder, tower, out_hidden_size=128, projector_hidden_size=32, types=None)


def step3p7() -> Family:
    decoder = {**TEXT, "mlp_layer_types": ["dense", "sparse"], "n_routed_experts": 4, "num_experts_per_tok": 2}
    decoder |= {"moe_intermediate_size": 16, "share_expert_dim": 16, "sliding_window": 8}
    decoder |= {"layer_types": ["sliding_attention", "full_attention"], "num_sliding_attention_heads": 2}
    model = model_of("step3p7", decoder, {**VISION, "image_size": 64, "mlp_ratio": 1.5, "max_position_embeddings": 64})
    return family(model, with_crops(pictures(2, 64, 64), pictures(3, 64, 64)))


def unlimited_ocr() -> Family:
    sam = vision("unlimited_ocr_sam_vision_model", image_size=64, patch_size=4, output_channels=16, mlp_dim=48)
    sam |= {"downsample_channels": [16, 32], "window_size": 4, "global_attn_indexes": [1]}
    tower = {"sam_config": sam, "encoder_config": vision("unlimited_ocr_vision_encoder")}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
    model = model_of("unlimited_ocr", text("unlimited_ocr_text", sliding_window=8, **experts), tower)
    return family(model, {"pixel_values": pictures(2, 64, 64)})


def hyperclovax_vision_v2() -> Family:
    windows = {"window_size": 16, "fullatt_block_indexes": [1], "model_type": "qwen2_5_vl_vision"}
    return with_grids("hyperclovax_vision_v2", text("hyperclovax"), windows, types=None)


def janus() -> Family:
    vq = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "latent_channels": 32}
    vq |= {"num_embeddings": 16, "projection_dim": 32, "image_token_embed_dim": 32}
    tower = vision("janus_vision_model", projection_dim=32, mlp_ratio=1.5, num_image_tokens=16)
    return around_pixels("janus", text("llama"), tower, vq_config=vq)


def deepseek_vl_hybrid() -> Family:
    high = {**VISION, "model_type": "sam_vision_model", "image_size": 128, "output_channels": 16, "mlp_dim": 48}
    high |= {"window_size": 4, "global_attn_indexes": [1]}
    tower = vision("siglip_vision_model", vision_use_head=False)
    model = model_of("deepseek_vl_hybrid", text("llama"), tower, high_res_vision_config=high)
    return family(model, {"pixel_values": pictures(2, 32, 32), "high_res_pixel_values": pictures(2, 128, 128)})


def video_llava() -> Family:
    return around_pixels("video_llava", text("llama"), vision("clip_vision_model"), video_token_id=VIDEO)


def llava_next_video() -> Family:
    return with_sizes(
        "llava_next_video",
        text("llama"),
        vision("clip_vision_model"),
        pictures(2, 3, 32, 32),
        [[30, 60], [64, 32]],
        image_grid_pinpoints=[[32, 64], [64, 32]],
        video_token_id=VIDEO,
    )


def granite_docling() -> Family:
    tower = {**VISION, "patch_size": 4, "out_hidden_size": 32, "scale_factor": 2, "use_fine_route": False}
    model = model_of("granite_docling", text("granite_docling_text"), tower | {"deepstack_visual_indexes": [0]})
    tiles = torch.ones(2, 2, dtype=torch.bool)
    return family(model, {"pixel_values": pictures(2, 2, 32, 32), "pixel_attention_mask": tiles})


def qwen3_5_moe() -> Family:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    decoder = text("qwen3_5_moe_text", shared_expert_intermediate_size=16, **experts, **LINEAR, **MROPE)
    return with_grids("qwen3_5_moe", decoder, {"num_position_embeddings": 16})


def gemma4() -> Family:
    decoder = text("gemma4_text", layer_types=["sliding_attention", "full_attention"], sliding_window=12)
    decoder |= {"global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 120}
    tower = {**VISION, "patch_size": 4, "head_dim": 16, "num_key_value_heads": 2}
    tower |= {"pooling_kernel_size": 2, "position_embedding_size": 64}
    model = model_of("gemma4", decoder, tower, boi_token_id=START, eoi_token_id=END, video_token_id=VIDEO)
    places = torch.cartesian_prod(torch.arange(8), torch.arange(8)).flip(1)
    images = {
        "pixel_values": packed_patches([64, 64], 48).view(2, 64, 48),
        "image_position_ids": torch.stack([places] * 2),
    }
    return family(model, images, before=(START,), after=(END,), types="mm_token_type_ids")


FAMILIES: dict[str, Callable[[], Family]] = {
    make.__name__: make
    for make in (
        aria, aya_vision, cohere2_vision, cosmos3_edge, cosmos3_omni, deepseek_ocr2, deepseek_vl,
        deepseek_vl_hybrid, emu3, ernie4_5_vl_moe, exaone4_5, gemma3, gemma4, glm46v, glm4v, glm4v_moe, glm_ocr,
        got_ocr2, granite_docling, hunyuan_vl, hyperclovax_vision_v2, idefics2, idefics3, internvl, janus,
        lfm2_vl, lighton_ocr, llava, llava_next, llava_next_video, llava_onevision, minicpmv4_6, minimax_m3_vl,
        mistral3, muse_glimmer, ovis2, paddleocr_vl, paligemma, qianfan_ocr, qwen2_5_vl, qwen2_vl, qwen3_5,
        qwen3_5_moe, qwen3_vl, qwen3_vl_moe, smolvlm, step3p7, unlimited_ocr, video_llama_3, video_llava,
        vipllava,
    )
}  # fmt: skip

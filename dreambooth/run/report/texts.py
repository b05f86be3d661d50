"""The texts of the pages, in English and in Chinese."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

_TEXTS: dict[str, tuple[str, str]] = {
    "state running": ("Training: {step} of {planned} updates.", "训练中：{planned} 步中的第 {step} 步。"),
    "state stopped": ("Stopped after {step} of {planned} updates.", "已停止：{planned} 步中完成了 {step} 步。"),
    "state finished": ("Finished: {step} of {planned} updates.", "已完成：{planned} 步中的 {step} 步。"),
    "best step": (
        "The best validation is that after update {step} (★).",
        "验证得分最高的是第 {step} 步（★）。",
    ),
    "figures of": ("The measures are those of update {step}.", "以上指标取自第 {step} 步。"),
    "reload": (
        "The page is written anew at each validation: reload it to see more.",
        "每次验证都会重写本页：刷新即可看到新内容。",
    ),
    "beside": ("Subject and drawings", "主体与生成图"),
    "subject": ("Training pictures", "训练图片"),
    "drawn after": ("After update {step}", "第 {step} 步之后"),
    "over the steps": ("Drawings over the updates", "各步的生成图"),
    "same seeds": (
        "Each row has the same prompt and the same noise, so what differs comes from the training alone.",
        "同一行的提示词和噪声相同，因此差别只来自训练。",
    ),
    "star": ("★ marks the best validation.", "★ 标出得分最高的一次验证。"),
    "left out": (
        "So that the page stays small, {count} of the steps are left out; their pictures are in samples/.",
        "为控制页面大小，省略了其中 {count} 步；图片仍在 samples/ 中。",
    ),
    "step": ("Update", "步数"),
    "all steps": ("All updates side by side", "并排查看各步"),
    "picture": ("Picture", "图片"),
    "class": ("The class, before and after", "类别：训练前后"),
    "class note": (
        "Other members of the class should stay as varied as they were. If they look like the subject, it has spread:"
        " take an earlier update, or preserve the class with more weight.",
        "类别的其他成员应当和训练前一样多样。如果它们变得像主体，说明主体扩散了：请取更早的步数，或加大类别保持的权重。",
    ),
    "before": ("Base model", "基础模型"),
    "curves": ("Curves", "曲线"),
    "curves note": (
        "The loss scatters with the noise of each update. The bold line is its mean, which forgets what lies some 25"
        " updates back. A dashed line marks the best validation.",
        "损失随每一步的噪声波动。粗线是它的滑动平均，大约 25 步之前的值会被遗忘。竖直虚线标出得分最高的一次验证。",
    ),
    "measures": ("Measures", "指标"),
    "data": ("Training pictures", "训练图片"),
    "data note": (
        "On the left is the picture with the part that is cut out, in red; on the right, what the network sees. What"
        " counts less is paler.",
        "左边是原图，红框是被裁出的部分；右边是网络看到的样子，权重较小的部分较淡。",
    ),
    "no data": (
        "The training pictures can not be shown from here:",
        "这里无法显示训练图片：",
    ),
    "masked": ("with a mask", "有蒙版"),
    "more pictures": ("{count} more pictures are not shown.", "另有 {count} 张图片未显示。"),
    "settings": ("What was asked", "训练设置"),
    "flag": ("Flag", "参数"),
    "value": ("Value", "值"),
    "what it does": ("What it does", "作用"),
    "defaults": ("Settings that have their defaults", "保持默认值的设置"),
    "commands": ("Go on from here", "接下来"),
    "command draw": ("Draw with it", "用它生成图片"),
    "command grid": ("Compare its checkpoints and seeds", "比较检查点和种子"),
    "command resume": ("Go on with the run", "继续训练"),
    "command again": ("Make the same run again", "重做同样的训练"),
    "command further": ("Train on, twice as long", "训练到两倍步数"),
    "command export": ("Export it", "导出"),
    "comparison": ("Comparison of {count} runs", "比较 {count} 次训练"),
    "differences": ("Settings that differ", "不同的设置"),
    "no differences": ("The runs have the same settings.", "这些训练的设置相同。"),
    "run": ("Run", "训练"),
    "measures at end": (
        "Of each run, the measures of its best validation, or of its last one where none was to be kept.",
        "每次训练取得分最高的验证的指标；没有选择最佳权重时取最后一次。",
    ),
    "side by side": ("Drawings side by side", "并排比较生成图"),
    "same seeds of runs": (
        "Runs of one seed draw from the same noise, so that their pictures can be compared one by one.",
        "种子相同的训练用同样的噪声生成，因此可以逐张比较。",
    ),
    "grid": ("Grid of {rows} x {columns} pictures", "{rows} x {columns} 张图片的网格"),
    "grid note": (
        "A click on a picture enlarges it. The whole pictures are in the folder of cells, under these names.",
        "点击图片可放大。完整图片保存在单元格文件夹中，文件名见放大后的说明。",
    ),
    "close": ("Back to the grid", "返回网格"),
    "machine": ("Machine and versions", "机器与版本"),
    "base model": ("base model", "基础模型"),
    "figure loss": ("loss", "损失"),
    "figure instance_loss": ("loss of the subject", "主体的损失"),
    "figure prior_loss": ("loss of the class", "类别的损失"),
    "figure learning_rate": ("learning rate", "学习率"),
    "figure gradient_norm": ("norm of the gradient", "梯度范数"),
    "figure pictures_per_second": ("pictures per second", "每秒图片数"),
    "figure memory_gb": ("memory in GB", "内存（GB）"),
    "figure score": ("score", "得分"),
    "figure validation_loss": ("loss on held-out noise", "留出噪声上的损失"),
    "figure validation_class_loss": ("loss of the class on held-out noise", "留出噪声上类别的损失"),
    "meaning score": (
        "One number for all, more is better. With a CLIP it is at most 1: subject, prompts and class together. Without"
        " one it is the loss on held-out noise, negated.",
        "综合得分，越高越好。有 CLIP 时最高为 1：综合主体、提示词和类别；没有 CLIP 时是留出噪声上损失的相反数。",
    ),
    "meaning CLIP-I": (
        "Is it the subject? The drawings' mean cosine with its pictures; more is better.",
        "是这个主体吗？生成图与主体图片的平均余弦；越高越好。",
    ),
    "meaning CLIP-T": (
        "Does it follow the prompt? The drawings' mean cosine with their prompts; more is better.",
        "符合提示词吗？生成图与提示词的平均余弦；越高越好。",
    ),
    "meaning DINO": (
        "Is it the very subject? As CLIP-I, by a DINO; more is better.",
        "是同一个个体吗？与 CLIP-I 相同，但用 DINO；越高越好。",
    ),
    "meaning PRES": (
        "Does the class stay itself? How much the class prompt's pictures resemble the subject; best as the base's.",
        "类别保持住了吗？类别提示词的图片与主体的相似度；与基础模型相同最好。",
    ),
    "meaning DIV": (
        "Do the pictures of a prompt differ? Best as the subject's own pictures do.",
        "同一提示词的图片有变化吗？与主体图片之间的差异相当最好。",
    ),
    "meaning APART": (
        "How much more the drawings resemble the subject than its class; more is better.",
        "生成图像主体胜过像类别的程度；越高越好。",
    ),
    "meaning DRIFT": (
        "How much more the class prompt's pictures resemble the subject than the class; less is better.",
        "类别提示词的图片像主体胜过像类别的程度；越低越好。",
    ),
    "meaning validation_loss": (
        "The loss on noise that is the same at each validation; less is better.",
        "每次验证都用同样的噪声计算的损失；越低越好。",
    ),
    "meaning validation_class_loss": (
        "The same of the class pictures; less is better.",
        "类别图片上的同一损失；越低越好。",
    ),
}


def both(name: str, **values: object) -> Markup:
    """Return a text in both languages, of which the page shows one; values in it are escaped."""
    from markupsafe import Markup

    first, second = _TEXTS[name]
    english_part = Markup('<span class="en">{}</span>').format(Markup(first).format(**values))
    return english_part + Markup('<span class="zh" lang="zh">{}</span>').format(Markup(second).format(**values))


def has(name: str) -> bool:
    """Check whether there is a text of a name."""
    return name in _TEXTS


def english(name: str, **values: object) -> str:
    """Return a text in English, for an attribute, in which no element can stand; the page's script exchanges it."""
    return _TEXTS[name][0].format(**values)


def chinese(name: str, **values: object) -> str:
    """Return a text in Chinese."""
    return _TEXTS[name][1].format(**values)

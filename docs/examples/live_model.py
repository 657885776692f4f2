"""A network of timm in a notebook: what do its units detect?

`live_model.ipynb` is this as a notebook (`python -m scripts.notebook` makes it); as a script, the cells run
from top to bottom. As it stands, everything comes with the packages: a network without training, and
pictures that cmon renders itself. For a real answer change the four names.
"""

# %% What is asked
import timm

import concept_monitor_cli as cmon

PRETRAINED = False  # True: timm downloads weights
IMAGES = "builtin"  # "photos/", some thousands
CONCEPTS = None  # a word list: "common", "words.txt", ["dog", "cat"]
ENCODER = None  # for photos: "ViT-B-16/openai" is the default

# %% The network. It stays as it is, whatever its mode and hooks
model = timm.create_model("test_resnet", pretrained=PRETRAINED)

# %% Dissect it. What is assumed of its images is in `run.notices`
run = cmon.dissect_model(
    model,
    IMAGES,
    layers=["layer2", "layer3"],
    concepts=CONCEPTS,
    encoder=ENCODER,
    input_size=64,
    probe_limit=300,
    out="live-run",
    overwrite=True,
)
print("\n".join(run.notices))

# %% The units with the strongest evidence, and how many labels are more than chance
best = run.concepts(layer="layer3", rank=1).sort_values("effect", ascending=False)
print(best[["unit", "concept", "effect", "p_value", "interpretable"]].head(10).to_string(index=False))
print(f"{best['interpretable'].sum()} of {len(best)} units are interpretable at 5 % false discoveries")

# %% The images that excite one of them most
unit = int(best["unit"].iloc[0])
names = run.top_images("layer3", unit, count=5)
pictures = [run.image(name) for name in names]
print(f"unit {unit}, {best['concept'].iloc[0]}: {', '.join(names)}")

"""The colours of every figure and page."""

#: Okabe and Ito's eight, which the colour-blind tell apart (*Color Universal Design*, 2008), the
#: yellow late, for it is faint on white; and two more where there are ten classes.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00",
    "#56B4E9", "#000000", "#F0E442", "#882255", "#999999",
)  # fmt: skip

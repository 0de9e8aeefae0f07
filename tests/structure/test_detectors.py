"""Detection networks of torchvision: the backbone and the pyramid are cut, the boxes of pruned networks stay equal."""

import pytest
import torch
from brute_force import get_reasons, get_widths, make_images, trace_randomized
from structures import draw_random_cut
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from blendsearch.structure.surgery import narrow
from blendsearch.structure.verify import mask_channels

IMAGES = make_images(4, 3, 96, 96)


@pytest.mark.slow
def test_a_faster_rcnn_with_frozen_batch_norms_is_cut() -> None:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    sizes = {"min_size": 96, "max_size": 96, "rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 20}
    model = FasterRCNN(backbone, num_classes=2, **sizes)
    structure = trace_randomized(model, IMAGES)
    widths, unpruned = get_widths(structure), get_reasons(structure)
    assert {"backbone.body.conv1", "backbone.body.layer4.0.conv1", "roi_heads.box_head.fc6"} <= widths.keys()
    assert structure.undecided == () and structure.unreached == ()
    # the pyramid's levels meet in a table of regions; the others are outputs
    assert "roi_heads.box_roi_pool reads all its channels" in unpruned["backbone.fpn.layer_blocks.0.0"]
    assert all(name.startswith(("backbone.fpn", "rpn.head", "roi_heads.box_predictor")) for name in unpruned)
    cut = draw_random_cut(structure.maps, 0.5, 0)
    masked, pruned = mask_channels(model, structure.maps, cut), narrow(model, structure.maps, cut)
    with torch.no_grad():
        for expected, found in zip(masked(IMAGES), pruned(IMAGES), strict=True):
            assert len(found["boxes"]) > 0
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-2)

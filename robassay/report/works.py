"""The works that parts of robassay come from, in full, and those that a study used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

WORKS = {
    "Andriushchenko et al. 2020": "Andriushchenko, Croce, Flammarion, Hein: Square Attack: a query-efficient "
    "black-box adversarial attack via random search. ECCV 2020, arXiv:1912.00049.",
    "Athalye et al. 2018": "Athalye, Carlini, Wagner: Obfuscated gradients give a false sense of security: "
    "circumventing defenses to adversarial examples. ICML 2018, arXiv:1802.00420.",
    "Athalye et al. 2018 (expectation over transformation": "Athalye, Engstrom, Ilyas, Kwok: Synthesizing robust "
    "adversarial examples. ICML 2018, arXiv:1707.07397.",
    "Bellec et al. 2018": "Bellec, Salaj, Subramoney, Legenstein, Maass: Long short-term memory and learning-to-learn "
    "in networks of spiking neurons. NeurIPS 2018, arXiv:1803.09574.",
    "Bengio et al. 2013": "Bengio, Léonard, Courville: Estimating or propagating gradients through stochastic neurons "
    "for conditional computation. arXiv:1308.3432, 2013.",
    "Brendel et al. 2018": "Brendel, Rauber, Bethge: Decision-based adversarial attacks: reliable attacks against "
    "black-box machine learning models. ICLR 2018, arXiv:1712.04248.",
    "Bu et al. 2022": "Bu, Fang, Ding, Dai, Yu, Huang: Optimal ANN-SNN conversion for high-accuracy and "
    "ultra-low-latency spiking neural networks. ICLR 2022, arXiv:2303.04347.",
    "Bu et al. 2023": "Bu, Ding, Hao, Yu: Rate gradient approximation attack threats deep spiking neural networks. "
    "CVPR 2023, doi:10.1109/CVPR52729.2023.00763.",
    "Cao and Gong 2017": "Cao, Gong: Mitigating evasion attacks to deep neural networks via region-based "
    "classification. ACSAC 2017, arXiv:1709.05583.",
    "Carlini and Wagner 2017": "Carlini, Wagner: Towards evaluating the robustness of neural networks. IEEE Symposium "
    "on Security and Privacy 2017, arXiv:1608.04644.",
    "Carlini and Wagner 2017 (MagNet)": "Carlini, Wagner: MagNet and “Efficient defenses against adversarial attacks” "
    "are not robust to adversarial examples. arXiv:1711.08478, 2017.",
    "Chen et al. 2020": "Chen, Jordan, Wainwright: HopSkipJumpAttack: a query-efficient decision-based attack. IEEE "
    "Symposium on Security and Privacy 2020, arXiv:1904.02144.",
    "Chung et al. 2017": "Chung, Ahn, Bengio: Hierarchical multiscale recurrent neural networks. ICLR 2017, "
    "arXiv:1609.01704.",
    "Courbariaux et al. 2016": "Courbariaux, Hubara, Soudry, El-Yaniv, Bengio: Binarized neural networks: training "
    "deep neural networks with weights and activations constrained to +1 or −1. arXiv:1602.02830, 2016.",
    "Croce and Hein 2020": "Croce, Hein: Reliable evaluation of adversarial robustness with an ensemble of diverse "
    "parameter-free attacks. ICML 2020, arXiv:2003.01690.",
    "Ding et al. 2022": "Ding, Bu, Yu, Huang, Liu: SNN-RAT: robustness-enhanced spiking neural network through "
    "regularized adversarial training. NeurIPS 2022.",
    "Eustratiadis et al. 2020": "Eustratiadis, Gouk, Li, Hospedales: A stochastic neural network for attack-agnostic "
    "adversarial robustness. Preprint, 2020, arXiv:2010.08852 (first version).",
    "Eustratiadis et al. 2021": "Eustratiadis, Gouk, Li, Hospedales: Weight-covariance alignment for adversarially "
    "robust neural networks. ICML 2021, arXiv:2010.08852.",
    "Fang et al. 2021": "Fang, Yu, Chen, Masquelier, Huang, Tian: Incorporating learnable membrane time constant to "
    "enhance learning of spiking neural networks. ICCV 2021, arXiv:2007.05785.",
    "Gal and Ghahramani 2016": "Gal, Ghahramani: Dropout as a Bayesian approximation: representing model uncertainty "
    "in deep learning. ICML 2016, arXiv:1506.02142.",
    "Ge et al. 2020": "Ge, Chau, Ribeiro, Li: Random spiking and systematic evaluation of defenses against "
    "adversarial examples. CODASPY 2020, doi:10.1145/3374664.3375736.",
    "Goodfellow et al. 2015": "Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples. ICLR "
    "2015, arXiv:1412.6572.",
    "Hao et al. 2024": "Hao, Bu, Shi, Huang, Yu, Huang: Threaten spiking neural networks through combining rate and "
    "temporal information. ICLR 2024.",
    "He et al. 2016": "He, Zhang, Ren, Sun: Deep residual learning for image recognition. CVPR 2016, arXiv:1512.03385.",
    "He et al. 2019": "He, Rakin, Fan: Parametric noise injection: trainable randomness to improve deep neural "
    "network robustness against adversarial attack. CVPR 2019, arXiv:1811.09310.",
    "Hendrycks and Gimpel 2017": "Hendrycks, Gimpel: A baseline for detecting misclassified and out-of-distribution "
    "examples in neural networks. ICLR 2017, arXiv:1610.02136.",
    "Hubara et al. 2016": "Hubara, Courbariaux, Soudry, El-Yaniv, Bengio: Binarized neural networks. NeurIPS 2016.",
    "Jeddi et al. 2020": "Jeddi, Shafiee, Karg, Scharfenberger, Wong: Learn2Perturb: an end-to-end feature "
    "perturbation learning to improve adversarial robustness. CVPR 2020, arXiv:2003.01090.",
    "Jeyasothy et al. 2019": "Jeyasothy, Sundaram, Ramasamy, Sundararajan: A novel method for extracting "
    "interpretable knowledge from a spiking neural classifier with time-varying synaptic weights. arXiv:1904.11367, "
    "2019.",
    "Kurakin et al. 2017": "Kurakin, Goodfellow, Bengio: Adversarial examples in the physical world. ICLR workshop "
    "2017, arXiv:1607.02533.",
    "LeCun et al. 1998": "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition. "
    "Proceedings of the IEEE 86(11), 1998, doi:10.1109/5.726791.",
    "Lee et al. 2020": "Lee, Sarwar, Panda, Srinivasan, Roy: Enabling spike-based backpropagation for training deep "
    "neural network architectures. Frontiers in Neuroscience 14, 2020, arXiv:1903.06379.",
    "Liu et al. 2018": "Liu, Cheng, Zhang, Hsieh: Towards robust neural networks via random self-ensemble. ECCV 2018, "
    "arXiv:1712.00673.",
    "Liu et al. 2019": "Liu, Li, Wu, Hsieh: Adv-BNN: improved adversarial defense through robust Bayesian neural "
    "network. ICLR 2019, arXiv:1810.01279.",
    "Lun et al. 2025": "Lun, Feng, Ni, Liang, Wang, Li, Yu, Cui: Towards effective and sparse adversarial attack on "
    "spiking neural networks via breaking invisible surrogate gradients. CVPR 2025, arXiv:2503.03272.",
    "Madry et al. 2018": "Madry, Makelov, Schmidt, Tsipras, Vladu: Towards deep learning models resistant to "
    "adversarial attacks. ICLR 2018, arXiv:1706.06083.",
    "Meng and Chen 2017": "Meng, Chen: MagNet: a two-pronged defense against adversarial examples. CCS 2017, "
    "arXiv:1705.09064.",
    "Mozafari et al. 2019": "Mozafari, Ganjtabesh, Nowzari-Dalini, Thorpe, Masquelier: Bio-inspired digit recognition "
    "using reward-modulated spike-timing-dependent plasticity in deep convolutional networks. Pattern Recognition 94, "
    "2019, doi:10.1016/j.patcog.2019.05.015.",
    "Neftci et al. 2019": "Neftci, Mostafa, Zenke: Surrogate gradient learning in spiking neural networks: bringing "
    "the power of gradient-based optimization to spiking neural networks. IEEE Signal Processing Magazine 36(6), "
    "2019, arXiv:1901.09948.",
    "Papernot et al. 2016": "Papernot, McDaniel, Wu, Jha, Swami: Distillation as a defense to adversarial "
    "perturbations against deep neural networks. IEEE Symposium on Security and Privacy 2016, arXiv:1511.04508.",
    "Pintor et al. 2022": "Pintor, Demetrio, Sotgiu, Demontis, Carlini, Biggio, Roli: Indicators of attack failure: "
    "debugging and improving optimization of adversarial examples. NeurIPS 2022, arXiv:2106.09947.",
    "Rathi et al. 2020": "Rathi, Srinivasan, Panda, Roy: Enabling deep spiking neural networks with hybrid conversion "
    "and spike timing dependent backpropagation. ICLR 2020, arXiv:2005.01807.",
    "Rueckauer et al. 2017": "Rueckauer, Lungu, Hu, Pfeiffer, Liu: Conversion of continuous-valued deep networks to "
    "efficient event-driven networks for image classification. Frontiers in Neuroscience 11, 2017, "
    "doi:10.3389/fnins.2017.00682.",
    "Rumelhart, Hinton and Williams 1986": "Rumelhart, Hinton, Williams: Learning representations by back-propagating "
    "errors. Nature 323, 1986, doi:10.1038/323533a0.",
    "Sharmin et al. 2019": "Sharmin, Panda, Sarwar, Lee, Ponghiran, Roy: A comprehensive analysis on adversarial "
    "robustness of spiking neural networks. IJCNN 2019, arXiv:1905.02704.",
    "Sharmin et al. 2020": "Sharmin, Rathi, Panda, Roy: Inherent adversarial robustness of deep spiking neural "
    "networks: effects of discrete input encoding and non-linear activations. ECCV 2020, arXiv:2003.10399.",
    "Shrestha and Orchard 2018": "Shrestha, Orchard: SLAYER: spike layer error reassignment in time. NeurIPS 2018, "
    "arXiv:1810.08646.",
    "Smilkov et al. 2017": "Smilkov, Thorat, Kim, Viégas, Wattenberg: SmoothGrad: removing noise by adding noise. "
    "arXiv:1706.03825, 2017.",
    "Spall 1992": "Spall: Multivariate stochastic approximation using a simultaneous perturbation gradient "
    "approximation. IEEE Transactions on Automatic Control 37(3), 1992, doi:10.1109/9.119632.",
    "Su et al. 2019": "Su, Vargas, Sakurai: One pixel attack for fooling deep neural networks. IEEE Transactions on "
    "Evolutionary Computation 23(5), 2019, doi:10.1109/TEVC.2019.2890858.",
    "Tan et al. 2020": "Tan, Elovici, Binder: Exploring the back alleys: analysing the robustness of alternative "
    "neural network architectures against adversarial attacks. Preprint, 2020.",
    "Tramèr et al. 2018": "Tramèr, Kurakin, Papernot, Goodfellow, Boneh, McDaniel: Ensemble adversarial training: "
    "attacks and defenses. ICLR 2018, arXiv:1705.07204.",
    "Wen et al. 2016": "Wen, Zhang, Li, Qiao: A discriminative feature learning approach for deep face recognition. "
    "ECCV 2016, doi:10.1007/978-3-319-46478-7_31.",
    "Wong and Kolter 2018": "Wong, Kolter: Provable defenses against adversarial examples via the convex outer "
    "adversarial polytope. ICML 2018, arXiv:1711.00851.",
    "Wu et al. 2018": "Wu, Deng, Li, Zhu, Shi: Spatio-temporal backpropagation for training high-performance spiking "
    "neural networks. Frontiers in Neuroscience 12, 2018, arXiv:1706.02609.",
    "Zagoruyko and Komodakis 2016": "Zagoruyko, Komodakis: Wide residual networks. BMVC 2016, arXiv:1605.07146.",
    "Zenke and Ganguli 2018": "Zenke, Ganguli: SuperSpike: supervised learning in multilayer spiking neural networks. "
    "Neural Computation 30(6), 2018, doi:10.1162/neco_a_01086.",
}
"""By the words in which a part's source names them; what follows in a longer name tells two works of a year apart."""
ALSO = {"Ge et al. 2019": "Ge et al. 2020"}
"""Years of a preprint."""


class Cited(NamedTuple):
    """A work, and what of it was used."""

    text: str
    parts: list[str]


def named_in(text: str) -> list[str]:
    """Keys of :data:`WORKS` that a source names, in its order."""
    for old, new in ALSO.items():
        text = text.replace(old, new)
    found = {}
    for key in sorted(WORKS, key=len, reverse=True):
        at = text.find(key)
        while at >= 0:
            found[at] = key
            text = text.replace(key, "\0" * len(key), 1)
            at = text.find(key)
    return [found[at] for at in sorted(found)]


def bibliography(document: Mapping[str, Any]) -> list[Cited]:
    """What a study cites itself, then the works that its parts come from, in the order of their names.

    Args:
        document: with "cites" (list of text) and "parts" (list of {"name", "source"}); earlier versions have no parts.
    """
    by_key: dict[str, list[str]] = {}
    own: list[Cited] = []
    for cite in document["cites"]:
        keys = [key for key in named_in(cite) if len(cite) <= len(key) + 2]  # a work in full is left as it stands
        by_key.update((key, []) for key in keys)
        own += [] if keys else [Cited(cite, [])]
    cited = list(by_key)
    for part in document.get("parts", []):
        for key in named_in(part["source"]):
            by_key.setdefault(key, []).append(part["name"])
    others = sorted(key for key in by_key if key not in cited)
    return (
        [Cited(WORKS[key], list(dict.fromkeys(by_key[key]))) for key in cited]
        + own
        + [Cited(WORKS[key], list(dict.fromkeys(by_key[key]))) for key in others]
    )

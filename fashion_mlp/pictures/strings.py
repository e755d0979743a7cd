"""Plot text in English and Russian, and how each language writes numbers.

`language` is `en` or `ru`.
"""

from __future__ import annotations

TEXTS = {
    "en": {
        "accuracy": "accuracy",
        "answers": "Predictions for these training images",
        "averages": "Average training image of each class",
        "all_units": "all units",
        "bin": "mean of a bin",
        "claim": "accuracy claimed in the paper",
        "confidence": "predicted probability",
        "confusion": "Confusion matrix, {}",
        "contact_sheet": "The first training images",
        "count": "images, {}",
        "counts": "How confident is it, and how often?",
        "epoch": "epoch",
        "error": "calibration error {}",
        "first": "Prediction for training image 0",
        "label": "true class",
        "labelled": "true class: {}",
        "loss": "loss",
        "mistakes": "The most confident mistakes, {}",
        "no_examples": "evaluate.examples names no image",
        "no_mistakes": "No mistakes, {}",
        "number": "no. {}",
        "ours": "this run",
        "paper": "the paper",
        "paper_value": "{} (paper: {})",
        "paper_epochs": "the paper's last epochs",
        "perfect": "perfect calibration",
        "predicted": "predicted class",
        "probability": "probability (log scale)",
        "reliability": "Is it right as often as it claims?",
        "share": "share of the class",
        "test": "test set",
        "training": "training images",
        "units": "Which pixels favour each class",
        "unit": "unit {}",
        "right": "right",
        "wrong": "wrong",
        "favours": "favours the class",
        "against": "speaks against it",
        "validation": "validation images",
    },
    "ru": {
        "accuracy": "доля верных ответов",
        "answers": "Что сеть говорит об этих обучающих изображениях",
        "averages": "Среднее обучающее изображение каждого класса",
        "all_units": "все нейроны",
        "bin": "среднее по интервалу",
        "claim": "точность, заявленная в статье",
        "confidence": "вероятность, которую называет сеть",
        "confusion": "Метка и ответ сети, {}",
        "contact_sheet": "Первые обучающие изображения",
        "count": "изображений, {}",
        "counts": "Насколько и как часто она уверена?",
        "epoch": "эпоха",
        "error": "ошибка калибровки {}",
        "first": "Что сеть говорит об обучающем изображении 0",
        "label": "метка",
        "labelled": "метка: {}",
        "loss": "функция потерь",
        "mistakes": "Самые уверенные ошибки сети, {}",
        "no_examples": "evaluate.examples не называет изображений",
        "no_mistakes": "Ни одной ошибки, {}",
        "number": "№ {}",
        "ours": "этот прогон",
        "paper": "статья",
        "paper_value": "{} (статья: {})",
        "paper_epochs": "последние эпохи статьи",
        "perfect": "идеальная калибровка",
        "predicted": "ответ",
        "probability": "вероятность, логарифмическая шкала",
        "reliability": "Так ли часто она права, как говорит?",
        "share": "доля изображений с этой меткой",
        "test": "тестовая выборка",
        "training": "обучающие изображения",
        "units": "Какие пиксели говорят за каждый класс",
        "unit": "нейрон {}",
        "right": "верно",
        "wrong": "неверно",
        "favours": "говорит за класс",
        "against": "говорит против",
        "validation": "проверочные изображения",
    },
}


def decimal(number: str, language: str) -> str:
    """Write a number's decimals behind a point, in Russian behind a comma."""
    return number.replace(".", ",") if language == "ru" else number


def percent(share: float, digits: int, language: str) -> str:
    """Write a share of 1 in percent."""
    return decimal(f"{100 * share:.{digits}f} %", language)


def thousands(number: float, language: str) -> str:
    """Write a whole number, its thousands apart."""
    return f"{number:,.0f}".replace(",", "\N{NO-BREAK SPACE}" if language == "ru" else ",")


def probability(value: float, language: str) -> str:
    """Write a probability so that small ones can be read: 0.99906, 8.1·10⁻⁴."""
    if value >= 0.01 or value == 0:
        return decimal(f"{value:.5f}".rstrip("0").rstrip("."), language)
    digits, exponent = f"{value:.1e}".split("e")
    factor = "" if digits == "1.0" else f"{decimal(digits, language)}·"
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{factor}10{power}"


def shorten(name: str, length: int) -> str:
    """Cut a name that has more letters than there is room for."""
    return name if len(name) <= length else name[: length - 1] + "…"

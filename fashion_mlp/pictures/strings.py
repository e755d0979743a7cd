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
        "confusion": "Confusion matrix, test set",
        "contact_sheet": "The first training images",
        "count": "test images",
        "counts": "How confident is it, and how often?",
        "epoch": "epoch",
        "error": "calibration error {}",
        "first": "Prediction for training image 0",
        "label": "true class",
        "labelled": "true class: {}",
        "loss": "loss",
        "mistakes": "The most confident mistakes on the test set",
        "no_examples": "evaluate.examples names no image",
        "no_mistakes": "No mistakes on the test set",
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
        "units": "What favours each class: all hidden units combined, and the strongest one",
        "unit": "unit {}",
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
        "confusion": "Тестовые изображения: метка и ответ сети",
        "contact_sheet": "Первые обучающие изображения",
        "count": "тестовых изображений",
        "counts": "Насколько и как часто она уверена?",
        "epoch": "эпоха",
        "error": "ошибка калибровки {}",
        "first": "Что сеть говорит об обучающем изображении 0",
        "label": "метка",
        "labelled": "метка: {}",
        "loss": "функция потерь",
        "mistakes": "Самые уверенные ошибки сети на тестовой выборке",
        "no_examples": "evaluate.examples не называет изображений",
        "no_mistakes": "На тестовой выборке сеть не ошиблась ни разу",
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
        "units": "Что говорит за каждый класс: все скрытые нейроны вместе и сильнейший из них",
        "unit": "нейрон {}",
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

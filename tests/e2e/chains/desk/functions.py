def shout(text: str, intent: str) -> str:
    return f"[{intent}] {text.upper()}"

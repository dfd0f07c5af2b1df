"""Passports in a Python service of your own: middleware that lets through only the requests whose passport and proof were verified."""

from robin.passport.asgi import PassportASGI
from robin.passport.requests import VerifiedPassport
from robin.passport.verifier import SettingsError, Verifier
from robin.passport.wsgi import PassportWSGI

__all__ = ["PassportASGI", "PassportWSGI", "SettingsError", "VerifiedPassport", "Verifier"]

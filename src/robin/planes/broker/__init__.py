"""The broker: passports issued to local peers, and the verifier that checks them."""

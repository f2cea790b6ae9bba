"""Cipher suites (IANA TLS Cipher Suites registry): what each one is made of, and how it stands today.

Only suites that a public server with a certificate, or with none (anonymous), can choose are here; those with a
pre-shared key, SRP or Kerberos need a secret that a scanner does not have. 0062 to 0066 were never registered, but
were widely shipped by their draft's names.
"""

from __future__ import annotations

import functools
from typing import Literal

import msgspec

Strength = Literal["secure", "weak", "insecure"]

FALLBACK_SCSV = 0x5600
RENEGOTIATION_SCSV = 0x00FF

_TABLE = """
RSA 0001:NULL_MD5 0002:NULL_SHA 0004:RC4_128_MD5 0005:RC4_128_SHA 0007:IDEA_CBC_SHA 0009:DES_CBC_SHA
  000A:3DES_EDE_CBC_SHA 002F:AES_128_CBC_SHA 0035:AES_256_CBC_SHA 003B:NULL_SHA256 003C:AES_128_CBC_SHA256
  003D:AES_256_CBC_SHA256 0041:CAMELLIA_128_CBC_SHA 0084:CAMELLIA_256_CBC_SHA 0096:SEED_CBC_SHA
  009C:AES_128_GCM_SHA256 009D:AES_256_GCM_SHA384 00BA:CAMELLIA_128_CBC_SHA256 00C0:CAMELLIA_256_CBC_SHA256
  C03C:ARIA_128_CBC_SHA256 C03D:ARIA_256_CBC_SHA384 C050:ARIA_128_GCM_SHA256 C051:ARIA_256_GCM_SHA384
  C07A:CAMELLIA_128_GCM_SHA256 C07B:CAMELLIA_256_GCM_SHA384 C09C:AES_128_CCM C09D:AES_256_CCM C0A0:AES_128_CCM_8
  C0A1:AES_256_CCM_8
RSA_EXPORT 0003:RC4_40_MD5 0006:RC2_CBC_40_MD5 0008:DES40_CBC_SHA
DH_DSS_EXPORT 000B:DES40_CBC_SHA
DH_DSS 000C:DES_CBC_SHA 000D:3DES_EDE_CBC_SHA 0030:AES_128_CBC_SHA 0036:AES_256_CBC_SHA 003E:AES_128_CBC_SHA256
  0042:CAMELLIA_128_CBC_SHA 0068:AES_256_CBC_SHA256 0085:CAMELLIA_256_CBC_SHA 0097:SEED_CBC_SHA
  00A4:AES_128_GCM_SHA256 00A5:AES_256_GCM_SHA384 00BB:CAMELLIA_128_CBC_SHA256 00C1:CAMELLIA_256_CBC_SHA256
  C03E:ARIA_128_CBC_SHA256 C03F:ARIA_256_CBC_SHA384 C058:ARIA_128_GCM_SHA256 C059:ARIA_256_GCM_SHA384
  C082:CAMELLIA_128_GCM_SHA256 C083:CAMELLIA_256_GCM_SHA384
DH_RSA_EXPORT 000E:DES40_CBC_SHA
DH_RSA 000F:DES_CBC_SHA 0010:3DES_EDE_CBC_SHA 0031:AES_128_CBC_SHA 0037:AES_256_CBC_SHA 003F:AES_128_CBC_SHA256
  0043:CAMELLIA_128_CBC_SHA 0069:AES_256_CBC_SHA256 0086:CAMELLIA_256_CBC_SHA 0098:SEED_CBC_SHA
  00A0:AES_128_GCM_SHA256 00A1:AES_256_GCM_SHA384 00BC:CAMELLIA_128_CBC_SHA256 00C2:CAMELLIA_256_CBC_SHA256
  C040:ARIA_128_CBC_SHA256 C041:ARIA_256_CBC_SHA384 C054:ARIA_128_GCM_SHA256 C055:ARIA_256_GCM_SHA384
  C07E:CAMELLIA_128_GCM_SHA256 C07F:CAMELLIA_256_GCM_SHA384
DHE_DSS_EXPORT 0011:DES40_CBC_SHA
DHE_DSS 0012:DES_CBC_SHA 0013:3DES_EDE_CBC_SHA 0032:AES_128_CBC_SHA 0038:AES_256_CBC_SHA 0040:AES_128_CBC_SHA256
  0044:CAMELLIA_128_CBC_SHA 0066:RC4_128_SHA 006A:AES_256_CBC_SHA256 0087:CAMELLIA_256_CBC_SHA 0099:SEED_CBC_SHA
  00A2:AES_128_GCM_SHA256 00A3:AES_256_GCM_SHA384 00BD:CAMELLIA_128_CBC_SHA256 00C3:CAMELLIA_256_CBC_SHA256
  C042:ARIA_128_CBC_SHA256 C043:ARIA_256_CBC_SHA384 C056:ARIA_128_GCM_SHA256 C057:ARIA_256_GCM_SHA384
  C080:CAMELLIA_128_GCM_SHA256 C081:CAMELLIA_256_GCM_SHA384
DHE_RSA_EXPORT 0014:DES40_CBC_SHA
DHE_RSA 0015:DES_CBC_SHA 0016:3DES_EDE_CBC_SHA 0033:AES_128_CBC_SHA 0039:AES_256_CBC_SHA 0045:CAMELLIA_128_CBC_SHA
  0067:AES_128_CBC_SHA256 006B:AES_256_CBC_SHA256 0088:CAMELLIA_256_CBC_SHA 009A:SEED_CBC_SHA
  009E:AES_128_GCM_SHA256 009F:AES_256_GCM_SHA384 00BE:CAMELLIA_128_CBC_SHA256 00C4:CAMELLIA_256_CBC_SHA256
  C044:ARIA_128_CBC_SHA256 C045:ARIA_256_CBC_SHA384 C052:ARIA_128_GCM_SHA256 C053:ARIA_256_GCM_SHA384
  C07C:CAMELLIA_128_GCM_SHA256 C07D:CAMELLIA_256_GCM_SHA384 C09E:AES_128_CCM C09F:AES_256_CCM C0A2:AES_128_CCM_8
  C0A3:AES_256_CCM_8 CCAA:CHACHA20_POLY1305_SHA256
DH_anon_EXPORT 0017:RC4_40_MD5 0019:DES40_CBC_SHA
DH_anon 0018:RC4_128_MD5 001A:DES_CBC_SHA 001B:3DES_EDE_CBC_SHA 0034:AES_128_CBC_SHA 003A:AES_256_CBC_SHA
  0046:CAMELLIA_128_CBC_SHA 006C:AES_128_CBC_SHA256 006D:AES_256_CBC_SHA256 0089:CAMELLIA_256_CBC_SHA
  009B:SEED_CBC_SHA 00A6:AES_128_GCM_SHA256 00A7:AES_256_GCM_SHA384 00BF:CAMELLIA_128_CBC_SHA256
  00C5:CAMELLIA_256_CBC_SHA256 C046:ARIA_128_CBC_SHA256 C047:ARIA_256_CBC_SHA384 C05A:ARIA_128_GCM_SHA256
  C05B:ARIA_256_GCM_SHA384 C084:CAMELLIA_128_GCM_SHA256 C085:CAMELLIA_256_GCM_SHA384
RSA_EXPORT1024 0062:DES_CBC_SHA 0064:RC4_56_SHA
DHE_DSS_EXPORT1024 0063:DES_CBC_SHA 0065:RC4_56_SHA
TLS13 00C6:SM4_GCM_SM3 00C7:SM4_CCM_SM3 1301:AES_128_GCM_SHA256 1302:AES_256_GCM_SHA384
  1303:CHACHA20_POLY1305_SHA256 1304:AES_128_CCM_SHA256 1305:AES_128_CCM_8_SHA256 C0B4:SHA256_SHA256
  C0B5:SHA384_SHA384
ECDH_ECDSA C001:NULL_SHA C002:RC4_128_SHA C003:3DES_EDE_CBC_SHA C004:AES_128_CBC_SHA C005:AES_256_CBC_SHA
  C025:AES_128_CBC_SHA256 C026:AES_256_CBC_SHA384 C02D:AES_128_GCM_SHA256 C02E:AES_256_GCM_SHA384
  C04A:ARIA_128_CBC_SHA256 C04B:ARIA_256_CBC_SHA384 C05E:ARIA_128_GCM_SHA256 C05F:ARIA_256_GCM_SHA384
  C074:CAMELLIA_128_CBC_SHA256 C075:CAMELLIA_256_CBC_SHA384 C088:CAMELLIA_128_GCM_SHA256
  C089:CAMELLIA_256_GCM_SHA384
ECDHE_ECDSA C006:NULL_SHA C007:RC4_128_SHA C008:3DES_EDE_CBC_SHA C009:AES_128_CBC_SHA C00A:AES_256_CBC_SHA
  C023:AES_128_CBC_SHA256 C024:AES_256_CBC_SHA384 C02B:AES_128_GCM_SHA256 C02C:AES_256_GCM_SHA384
  C048:ARIA_128_CBC_SHA256 C049:ARIA_256_CBC_SHA384 C05C:ARIA_128_GCM_SHA256 C05D:ARIA_256_GCM_SHA384
  C072:CAMELLIA_128_CBC_SHA256 C073:CAMELLIA_256_CBC_SHA384 C086:CAMELLIA_128_GCM_SHA256
  C087:CAMELLIA_256_GCM_SHA384 C0AC:AES_128_CCM C0AD:AES_256_CCM C0AE:AES_128_CCM_8 C0AF:AES_256_CCM_8
  CCA9:CHACHA20_POLY1305_SHA256
ECDH_RSA C00B:NULL_SHA C00C:RC4_128_SHA C00D:3DES_EDE_CBC_SHA C00E:AES_128_CBC_SHA C00F:AES_256_CBC_SHA
  C029:AES_128_CBC_SHA256 C02A:AES_256_CBC_SHA384 C031:AES_128_GCM_SHA256 C032:AES_256_GCM_SHA384
  C04E:ARIA_128_CBC_SHA256 C04F:ARIA_256_CBC_SHA384 C062:ARIA_128_GCM_SHA256 C063:ARIA_256_GCM_SHA384
  C078:CAMELLIA_128_CBC_SHA256 C079:CAMELLIA_256_CBC_SHA384 C08C:CAMELLIA_128_GCM_SHA256
  C08D:CAMELLIA_256_GCM_SHA384
ECDHE_RSA C010:NULL_SHA C011:RC4_128_SHA C012:3DES_EDE_CBC_SHA C013:AES_128_CBC_SHA C014:AES_256_CBC_SHA
  C027:AES_128_CBC_SHA256 C028:AES_256_CBC_SHA384 C02F:AES_128_GCM_SHA256 C030:AES_256_GCM_SHA384
  C04C:ARIA_128_CBC_SHA256 C04D:ARIA_256_CBC_SHA384 C060:ARIA_128_GCM_SHA256 C061:ARIA_256_GCM_SHA384
  C076:CAMELLIA_128_CBC_SHA256 C077:CAMELLIA_256_CBC_SHA384 C08A:CAMELLIA_128_GCM_SHA256
  C08B:CAMELLIA_256_GCM_SHA384 CCA8:CHACHA20_POLY1305_SHA256
ECDH_anon C015:NULL_SHA C016:RC4_128_SHA C017:3DES_EDE_CBC_SHA C018:AES_128_CBC_SHA C019:AES_256_CBC_SHA
"""


class Suite(msgspec.Struct, frozen=True):
    """One cipher suite. `bits` is the key length of the encryption, 0 for none; `reason` is "" where it is secure.

    `key_exchange` is RSA, DH, DHE, ECDH, ECDHE or "any" (TLS 1.3, where it is agreed on apart); `authentication` is
    RSA, DSS, ECDSA, anon or "any"; `mac` is AEAD, or the hash of the HMAC.
    """

    code: int
    name: str
    key_exchange: str
    authentication: str
    encryption: str
    bits: int
    mac: str
    strength: Strength
    reason: str

    @property
    def hex(self) -> str:
        """The code as the registry writes it: "0xC0,0x2F"."""
        return f"0x{self.code >> 8:02X},0x{self.code & 255:02X}"

    @property
    def tls13(self) -> bool:
        """Whether the suite is for TLS 1.3 only (RFC 8446 appendix B.4, RFC 8998, RFC 9150)."""
        return self.key_exchange == "any"


def _parts(cipher: str) -> tuple[str, int, str]:
    """(encryption, bits, mac) of what follows WITH_ in a suite's name."""
    if cipher in ("SHA256_SHA256", "SHA384_SHA384"):
        return "NULL", 0, cipher[:6]
    head, _, last = cipher.rpartition("_")
    encryption = cipher if last in ("8", "CCM") else head
    aead = any(word in encryption for word in ("GCM", "CCM", "POLY1305"))
    if encryption.startswith("DES40") or "_40" in encryption:
        bits = 40
    elif encryption.startswith("DES_"):
        bits = 56
    elif encryption.startswith("3DES"):
        bits = 168
    elif encryption.startswith("CHACHA20"):
        bits = 256
    elif encryption == "NULL":
        bits = 0
    else:
        bits = next((int(word) for word in encryption.split("_") if word in ("56", "128", "256")), 128)
    return encryption, bits, "AEAD" if aead else last


def _judge(kex: str, auth: str, encryption: str, mac: str, *, export: bool) -> tuple[Strength, str]:
    if encryption == "NULL":
        return "insecure", "it does not encrypt (RFC 9325 section 4.1)"
    if auth == "anon":
        return (
            "insecure",
            "it does not authenticate the server, so anyone in between can read along (RFC 5246 appendix F.1.1.1)",
        )
    if export:
        return "insecure", "it is cut down to export strength and can be broken (FREAK, Logjam; RFC 9325 section 4.1)"
    if "RC4" in encryption:
        return "insecure", "RC4 is broken and prohibited (RFC 7465)"
    if "RC2" in encryption or encryption.startswith("DES"):
        return "insecure", "its encryption can be broken by trying all keys (RFC 5469 for DES)"
    if mac == "MD5":
        return "insecure", "its integrity rests on MD5 (RFC 6151)"
    if encryption.startswith(("3DES", "IDEA")):
        return "weak", "its blocks of 64 bits leak plaintext in long sessions (Sweet32; RFC 9325 section 4.1)"
    if kex == "RSA":
        return "weak", "RSA key transport has no forward secrecy (RFC 9325 section 4.1)"
    if kex in ("DH", "ECDH"):
        return "weak", "a fixed Diffie-Hellman key has no forward secrecy (RFC 9325 section 4.1)"
    if auth == "DSS":
        return "weak", "DSA with keys of 1024 bits and SHA-1 is no longer approved (FIPS 186-5)"
    if mac != "AEAD":
        return "weak", "CBC with MAC-then-encrypt is open to padding oracles (Lucky 13; RFC 7366)"
    if encryption.endswith("CCM_8"):
        return "weak", "its authentication tag is only 64 bits long (not recommended in the IANA registry)"
    if encryption.startswith("SM4"):
        return "weak", "it is a national algorithm that the IETF has not endorsed (RFC 8998)"
    return "secure", ""


def _suite(code: int, family: str, cipher: str) -> Suite:
    encryption, bits, mac = _parts(cipher)
    if family == "TLS13":
        strength, reason = _judge("any", "any", encryption, mac, export=False)
        return Suite(code, f"TLS_{cipher}", "any", "any", encryption, bits, mac, strength, reason)
    words = family.split("_")
    export = words[-1].startswith("EXPORT")
    kex, auth = words[0], words[1] if len(words) > 1 + export else words[0]
    strength, reason = _judge(kex, auth, encryption, mac, export=export)
    return Suite(code, f"TLS_{family}_WITH_{cipher}", kex, auth, encryption, bits, mac, strength, reason)


@functools.cache
def suites() -> dict[int, Suite]:
    """Every known suite by code."""
    known: dict[int, Suite] = {}
    family = ""
    for word in _TABLE.split():
        code, colon, cipher = word.partition(":")
        if colon:
            known[int(code, 16)] = _suite(int(code, 16), family, cipher)
        else:
            family = word
    return known


@functools.cache
def by_name() -> dict[str, Suite]:
    """Every known suite by its registry name."""
    return {suite.name: suite for suite in suites().values()}


def suite_name(code: int) -> str:
    """The registry's name, or the code in hex for one that is not in the table."""
    known = suites().get(code)
    return known.name if known else f"0x{code:04X}"


_RANK = {"secure": 0, "weak": 1, "insecure": 2}


def _order(suite: Suite) -> tuple[int, int, bool, int, int]:
    usual = suite.encryption.startswith(("AES", "CHACHA20"))
    exchange = ("ECDHE", "DHE").index(suite.key_exchange) if suite.key_exchange.endswith("DHE") else 2
    return _RANK[suite.strength], exchange, not usual, -suite.bits, suite.code


@functools.cache
def offer(version: int) -> tuple[int, ...]:
    """The codes to offer for a protocol version (0x0300 to 0x0304), the strong ones first.

    Below TLS 1.2 the suites that only TLS 1.2 defines (AEAD, HMAC with SHA-256 or SHA-384: RFC 5246 appendix A.5,
    RFC 5289 §4) are left out: choosing one there would be the server's fault, and the shorter list is safer with old
    servers.
    """
    if version == 0x0304:
        return (0x1301, 0x1302, 0x1303, 0x1304, 0x1305, 0x00C6, 0x00C7, 0xC0B4, 0xC0B5)
    chosen = [
        suite for suite in suites().values() if not suite.tls13 and (version == 0x0303 or suite.mac in ("SHA", "MD5"))
    ]
    chosen.sort(key=_order)
    return tuple(suite.code for suite in chosen)

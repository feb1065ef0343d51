"""The settings of the streams; part of `Settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class StreamsFields(BaseSettings):
    """What can be set about `faregate streams`. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="FAREGATE_", extra="forbid", frozen=True)

    streams_state: Literal["rocksdb", "memory"] = Field(
        "rocksdb", description="Where the streams keep their tables, beside their changelogs."
    )
    streams_directory: Path | None = Field(
        None, description="Where RocksDB keeps them; by default in the home of the embedded stack."
    )
    streams_every_s: float = Field(
        2, ge=0.1, le=60, description="A signal that changed is published after so long."
    )
    streams_runway_alert_s: float = Field(
        14_400, gt=0, description="RunwayLowV1 when an account would be empty sooner."
    )
    streams_denial_window_s: int = Field(
        300, ge=10, le=3_600, description="The length of a window of denials."
    )
    streams_spike_factor: float = Field(
        3, ge=1, description="So many times their usual denials are a spike."
    )
    streams_spike_least: int = Field(5, ge=1, description="Fewer in a window are never one.")
    streams_top_names: int = Field(
        10, ge=1, le=100, description="How many users, models and phases are listed."
    )
    streams_close_after_s: float = Field(
        120, ge=1, le=3_600, description="An hour or day is closed so long after its end."
    )
    streams_fraud_registrations: int = Field(
        20, ge=1, description="More of one domain or referrer within an hour are suspicious."
    )
    streams_fraud_drain_s: float = Field(
        600, gt=0, le=86_400, description="A trial that is drained sooner is suspicious."
    )
    streams_fraud_drain_percent: int = Field(
        90, ge=1, le=100, description="So much of its credits counts as drained."
    )
    streams_fraud_common_domains: str = Field(
        "gmail.com googlemail.com outlook.com hotmail.com live.com yahoo.com icloud.com gmx.de "
        "gmx.net web.de proton.me protonmail.com qq.com 163.com",
        description="Mail domains that anybody can have: their registrations are not counted.",
    )
    streams_reconcile_after_s: float = Field(
        30, ge=1, le=600, description="A checkpoint ahead of the announcements for longer alerts."
    )

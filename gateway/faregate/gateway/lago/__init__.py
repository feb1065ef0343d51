"""Lago: its webhooks become tiers and purchases, and new users become its customers."""

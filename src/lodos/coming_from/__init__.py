"""Configs that were written for other tools: what their keys are called here. One file a tool."""

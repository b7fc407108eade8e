"""The command line. It holds no rules: it turns words into calls of ``rota.client`` and answers into text."""

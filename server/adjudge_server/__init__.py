"""The Adjudge server: keeps a critic resident and answers with rewards and margins."""

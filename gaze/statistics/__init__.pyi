from .seeds import pearson_table

__all__ = ["pearson_table"]
